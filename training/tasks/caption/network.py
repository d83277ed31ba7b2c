"""The captioner's network: an image's vector becomes the first states of an LSTM, and is seen by it at every step.

What is seen at every step stays what it was: a state that the writer only reads. It knows vectors and ids, not text,
data or training.

Invariant: k steps in one run equal k runs of one step; what stands beyond a row's length, and which rows share the
batch, changes nothing.

Source: Vinyals et al., CVPR 2015; an image at every step as in Mao et al., ICLR 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.recurrent import Recurrent
from training.tasks.caption.text import SPECIAL

TABLE_DEVIATION = 0.1  # of the embeddings at first: they are the output layer too, where PyTorch's 1 is far too large


class Viewer(nn.Module):
    """See an image: what the writer begins with."""

    def __init__(self, features: int, image: int, hidden: int, dropout: float) -> None:
        """`features` of a vector; `image` is the width of what is seen, `hidden` of the writer's layer."""
        super().__init__()
        self.see = nn.Linear(features, image)
        self.begin = nn.Linear(image, 2 * hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the writer's first h and c, then what it sees at every step.

        Shapes: vector [batch, 1, features]; lengths [batch] are not looked at; h and c [1, batch, hidden]; image
        [batch, image].
        """
        image = self.dropout(self.see(vector[:, 0]).float().relu())
        h, c = self.begin(image).float().tanh().unsqueeze(0).chunk(2, 2)
        return h, c, image


class Writer(nn.Module):
    """Write a caption: after each of its words, how likely each next one is.

    Ids from 0 are those that it can write; those behind them it only reads.
    """

    def __init__(self, words: int, width: int, image: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.words = words
        self.table = nn.Embedding(words + len(SPECIAL), width)
        self.recurrent = Recurrent("lstm", width + image, hidden)
        self.read_out = nn.Linear(hidden + image, width)
        self.bias = nn.Parameter(torch.zeros(words))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.table.weight, std=TABLE_DEVIATION)

    def forward(self, ids: Tensor, lengths: Tensor, h: Tensor, c: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of the next words, then h and c.

        Shapes: as `logits`, probabilities [batch, time, words].
        """
        scores, *states = self.logits(ids, lengths, h, c, image)
        return scores.softmax(2), *states

    def logits(self, ids: Tensor, lengths: Tensor, h: Tensor, c: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        """Return the scores of the next words, then h and c.

        Shapes: ids [batch, time] of any integer type; lengths [batch] int32; h and c [1, batch, hidden]; image [batch,
        image]; scores [batch, time, words].
        """
        seen = image.unsqueeze(1).expand(-1, ids.shape[1], -1)
        wrote, states = self.recurrent(torch.cat([self.dropout(self.table(ids)), seen], 2), lengths, (h, c))
        read = self.dropout(self.read_out(self.dropout(torch.cat([wrote, seen], 2))))
        # As one matrix: the graph then holds the table once, for both ends of the writer.
        scores = nn.functional.linear(read.flatten(0, 1), self.table.weight[: self.words], self.bias)
        return scores.view(*ids.shape, -1), *states


class Captioner(nn.Module):
    """A viewer and its writer."""

    def __init__(self, viewer: Viewer, writer: Writer) -> None:
        super().__init__()
        self.viewer, self.writer = viewer, writer

    def forward(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Return the scores of the next words of captions that are known.

        Shapes: vectors [batch, features]; ids [batch, time], no row shorter than that; scores [batch, time, words].
        """
        lengths = torch.full((len(ids),), ids.shape[1], dtype=torch.int32)
        scores, *_ = self.writer.logits(ids, lengths, *self.viewer(vectors.unsqueeze(1), lengths))
        return scores
