"""The sentiment networks: one reads the whole text in both directions, one reads on word by word.

They know ids and lengths, not text, data or training. Invariant: what stands beyond a row's length, and which rows
share the batch, changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.recurrent import Recurrent
from training.text import LABELS, UNKNOWN_ID


class Words(nn.Module):
    """Embed words; in training some words, at random, are read as unknown, so that unknown words are understood."""

    def __init__(self, vocabulary: int, width: int, dropout: float, word_dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.dropout, self.word_dropout = nn.Dropout(dropout), word_dropout

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: ids [batch, time] of any integer type; returns [batch, time, width]."""
        if self.training:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.word_dropout, UNKNOWN_ID)
        embedded: Tensor = self.dropout(self.table(ids))
        return embedded


class SentimentNetwork(nn.Module):
    """Score a whole text: a bidirectional LSTM, its outputs pooled by mean and maximum over the row's own words."""

    def __init__(
        self, vocabulary: int, width: int, hidden: int, layers: int, dropout: float, word_dropout: float
    ) -> None:
        super().__init__()
        self.words = Words(vocabulary, width, dropout, word_dropout)
        self.recurrent = Recurrent("lstm", width, hidden, layers=layers, bidirectional=True, dropout=dropout)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * hidden, len(LABELS)))

    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, 2]."""
        read, _ = self.recurrent(self.words(ids), lengths)
        own = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        mean = read.sum(1) / lengths[:, None]  # outputs beyond the length are zero
        largest = read.masked_fill(~own[..., None], -torch.inf).amax(1)
        scored: Tensor = self.head(torch.cat([mean, largest], 1))
        return scored

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return probabilities. Shapes: as `logits`."""
        return self.logits(ids, lengths).softmax(-1)


class LiveSentimentNetwork(nn.Module):
    """Score a text after each of its words: a stacked GRU whose states are carried on."""

    def __init__(
        self, vocabulary: int, width: int, hidden: int, layers: int, dropout: float, word_dropout: float
    ) -> None:
        super().__init__()
        self.words = Words(vocabulary, width, dropout, word_dropout)
        self.recurrent = Recurrent("gru", width, hidden, layers=layers, dropout=dropout)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, len(LABELS)))

    def logits(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Score each text at its last word. Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, 2]."""
        read, _ = self.recurrent(self.words(ids), lengths)
        last = (lengths.long() - 1)[:, None, None].expand(-1, 1, read.shape[2])
        scored: Tensor = self.head(read.gather(1, last).squeeze(1))
        return scored

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities after each word, then the states.

        Shapes: ids [batch, time]; lengths [batch] int32; states as `recurrent.states`; scores [batch, time, 2].
        """
        read, carried = self.recurrent(self.words(ids), lengths, states)
        return self.head(read).softmax(-1), *carried
