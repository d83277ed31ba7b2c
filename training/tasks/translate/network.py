"""The translator's network: a bidirectional encoder, and a decoder that attends to all of what was read.

The decoder's attention asks with its first layer's outputs, not with the second layer's of the step before. So all
steps of a known translation run at once, and each layer is one ONNX node. It knows ids, not text, data or training.

Invariant: k steps in one run equal k runs of one step; what stands beyond a row's length or beyond the size of its
memory, and which rows share the batch, changes nothing.

Source: Bahdanau et al., ICLR 2015; attention's scores and scale as in Luong et al., EMNLP 2015 ("general") and
Vaswani et al., NeurIPS 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.recurrent import Recurrent

TABLE_DEVIATION = 0.1  # of the embeddings at first: they are the output layer too, where PyTorch's 1 is far too large


class Encoder(nn.Module):
    """Read a source: a vector for each of its tokens, and the decoder's first states."""

    def __init__(self, vocabulary: int, width: int, hidden: int, layers: int, decoder: int, dropout: float) -> None:
        """`hidden` of each direction; `decoder` of the decoder's first layer."""
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.recurrent = Recurrent("lstm", width, hidden, layers=layers, bidirectional=True, dropout=dropout)
        self.begin = nn.Linear(2 * hidden, 2 * decoder)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.table.weight, std=TABLE_DEVIATION)

    @property
    def features(self) -> int:
        """How wide a vector of the memory is."""
        return 2 * self.recurrent.hidden_size

    def forward(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's first h and c, then the memory.

        Shapes: source [batch, time] of any integer type; lengths [batch] int32; h and c [1, batch, decoder]; memory
        [batch, time, features].
        """
        memory, finals = self.recurrent(self.dropout(self.table(source)), lengths)
        last = finals[-2]  # h of the last layer, both directions
        h, c = self.begin(torch.cat([last[0], last[1]], 1)).float().tanh().unsqueeze(0).chunk(2, 2)
        return h, c, self.dropout(memory)


class Decoder(nn.Module):
    """Write a translation: after each of its tokens, how likely each next one is, and where the decoder looked."""

    def __init__(self, vocabulary: int, width: int, hidden: int, memory: int, dropout: float) -> None:
        """`hidden` of each of the two layers; `memory` is the width of what is attended to."""
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.first = Recurrent("lstm", width, hidden)
        self.ask = nn.Linear(hidden, memory, bias=False)
        self.second = Recurrent("lstm", hidden + memory, hidden)
        self.read_out = nn.Linear(hidden + memory, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.table.weight, std=TABLE_DEVIATION)

    def forward(self, ids: Tensor, lengths: Tensor, memory_lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of the next tokens, the attention's weights, then the states but the memory.

        Probabilities, not their logits: float32 is too coarse for the parity suite at a logit of 10.

        Shapes: as `logits`, probabilities [batch, time, vocabulary].
        """
        scores, *rest = self.logits(ids, lengths, memory_lengths, *states)
        return scores.softmax(2), *rest

    def logits(
        self,
        ids: Tensor,
        lengths: Tensor,
        memory_lengths: Tensor,
        h0: Tensor,
        c0: Tensor,
        h1: Tensor,
        c1: Tensor,
        memory: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the scores of the next tokens, the attention's weights, then the states but the memory.

        Shapes: ids [batch, time] of any integer type; lengths, memory_lengths [batch] int32; h0, c0, h1, c1 [1, batch,
        hidden]; memory [batch, memory, features]; scores [batch, time, vocabulary]; weights [batch, time, memory].
        """
        wrote, first = self.first(self.dropout(self.table(ids)), lengths, (h0, c0))
        weights = self._attend(wrote, memory, memory_lengths)
        context = weights @ memory
        thought, second = self.second(self.dropout(torch.cat([wrote, context], 2)), lengths, (h1, c1))
        read = self.dropout(self.read_out(self.dropout(torch.cat([thought, context], 2))))
        # As one matrix: the graph then holds the table once, for both ends of the decoder.
        scores = nn.functional.linear(read.flatten(0, 1), self.table.weight, self.bias)
        return scores.view(*ids.shape, -1), weights, *first, *second

    def _attend(self, wrote: Tensor, memory: Tensor, memory_lengths: Tensor) -> Tensor:
        scores = (self.ask(wrote) @ memory.transpose(1, 2)).float() * memory.shape[2] ** -0.5
        there = torch.arange(memory.shape[1], device=memory.device) < memory_lengths[:, None]
        weights: Tensor = scores.masked_fill(~there[:, None], float("-inf")).softmax(2)
        return weights


class Translator(nn.Module):
    """An encoder and its decoder."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: Tensor, ids: Tensor) -> Tensor:
        """Return the scores of the next tokens of translations that are known.

        Shapes: source [batch, source time], no row shorter than that; ids [batch, time], padding behind; scores
        [batch, time, vocabulary].
        """
        sizes, lengths = (torch.full((len(rows),), rows.shape[1], dtype=torch.int32) for rows in (source, ids))
        h, c, memory = self.encoder(source, sizes)
        h1, c1 = self.decoder.second.zero_states(len(ids))
        scores, *_ = self.decoder.logits(ids, lengths, sizes.to(ids.device), h, c, h1, c1, memory)
        return scores
