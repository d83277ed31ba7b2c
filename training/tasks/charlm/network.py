"""The character model's network: a character a step in, the probabilities of the next character out, state carried.

It knows ids, not text, data or training. Invariant: k steps in one run equal k runs of one step, and what stands beyond
a row's length, and which rows share the batch, changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.recurrent import Recurrent


class CharNetwork(nn.Module):
    """Predict the next character: a stacked LSTM over embedded characters.

    Ids from 0 are the characters that it can predict; the id after them stands for every other character.
    """

    def __init__(
        self, characters: int, width: int, hidden: int, layers: int, dropout: float, unknown_rate: float
    ) -> None:
        """`dropout` acts between and after the layers; `unknown_rate` of the characters are read as unknown."""
        super().__init__()
        self.unknown, self.unknown_rate = characters, unknown_rate
        self.table = nn.Embedding(characters + 1, width)
        self.recurrent = Recurrent("lstm", width, hidden, layers=layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, characters)

    def logits(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Score every next character; in training some characters, at random, are read as unknown.

        Shapes: as `forward`.
        """
        if self.training:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.unknown_rate, self.unknown)
        read, carried = self.recurrent(self.table(ids), lengths, states)
        return self.head(self.dropout(read)), carried

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of the character after each one, then the states.

        Shapes: ids [batch, time] of any integer type; lengths [batch] int32; states as `recurrent.states`;
        probabilities [batch, time, characters].
        """
        scores, carried = self.logits(ids, lengths, *states)
        return scores.softmax(-1), *carried
