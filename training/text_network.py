"""The text networks: one reads a whole text in both directions, one reads on token by token.

They know ids and lengths, not text, data or training. Invariant: what stands beyond a row's length, and which rows
share the batch, changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.recurrent import Cell, Recurrent
from training.text import UNKNOWN_ID


class Tokens(nn.Module):
    """Embed tokens; in training some, at random, are read as unknown, so that unknown tokens are understood."""

    def __init__(self, vocabulary: int, width: int, dropout: float, unknown: float) -> None:
        """Build the table. In training the share `unknown` of tokens is hidden, and `dropout` of a row's features.

        Source: a feature is left out for all of a row's steps, as Gal and Ghahramani, NeurIPS 2016, do.
        """
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.dropout, self.unknown = nn.Dropout1d(dropout), unknown

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: ids [batch, time] of any integer type; returns [batch, time, width] float32."""
        if self.training:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.unknown, UNKNOWN_ID)
        embedded: Tensor = self.table(ids).float()
        return self.dropout(embedded.transpose(1, 2)).transpose(1, 2) if self.training else embedded

    def round(self) -> None:
        """Hold the table as float16, half as large; what follows computes in float32."""
        self.table.half()


class Reader(nn.Module):
    """Read a whole text in both directions; pool by mean and maximum over its own tokens; give one vote a label."""

    def __init__(
        self,
        vocabulary: int,
        labels: int,
        *,
        cell: Cell,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
        token_dropout: float,
        unknown: float,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(vocabulary, width, token_dropout, unknown)
        self.recurrent = Recurrent(cell, width, hidden, layers=layers, bidirectional=True, dropout=dropout)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4 * hidden, labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, labels]."""
        read, _ = self.recurrent(self.tokens(ids), lengths)
        own = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        mean = read.sum(1) / lengths[:, None]  # outputs beyond the length are zero
        largest = read.masked_fill(~own[..., None], -torch.inf).amax(1)
        voted: Tensor = self.head(self.dropout(torch.cat([mean, largest], 1)))
        return voted


class TextNetwork(nn.Module):
    """Score a whole text by several readers, each of which learns alone; their mean vote counts."""

    def __init__(self, vocabulary: int, labels: int, *, readers: int, **each: Cell | float) -> None:
        """Build the readers; `each` is as `Reader` takes it."""
        super().__init__()
        self.readers = nn.ModuleList(Reader(vocabulary, labels, **each) for _ in range(readers))  # type: ignore[arg-type]

    @property
    def recurrent(self) -> Recurrent:
        """One of the stacks, which are alike."""
        found = self.readers[0].get_submodule("recurrent")
        assert isinstance(found, Recurrent)
        return found

    def votes(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time]; lengths [batch] int32; returns [readers, batch, labels]."""
        return torch.stack([reader(ids, lengths) for reader in self.readers])

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return probabilities. Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, labels]."""
        return self.votes(ids, lengths).mean(0).softmax(-1)


class LiveTextNetwork(nn.Module):
    """Score a text after each of its tokens: a stack in one direction whose states are carried on."""

    def __init__(
        self,
        vocabulary: int,
        labels: int,
        *,
        cell: Cell,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
        token_dropout: float,
        unknown: float,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(vocabulary, width, token_dropout, unknown)
        self.recurrent = Recurrent(cell, width, hidden, layers=layers, dropout=dropout)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, labels)

    def votes(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Score each text at its last token. Shapes: as `TextNetwork.votes`, of one reader."""
        read, _ = self.recurrent(self.tokens(ids), lengths)
        last = (lengths.long() - 1)[:, None, None].expand(-1, 1, read.shape[2])
        voted: Tensor = self.head(self.dropout(read.gather(1, last).squeeze(1)))
        return voted[None]

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities after each token, then the states.

        Shapes: ids [batch, time]; lengths [batch] int32; states as `recurrent.states`; scores [batch, time, labels].
        """
        read, carried = self.recurrent(self.tokens(ids), lengths, states)
        return self.head(read).softmax(-1), *carried
