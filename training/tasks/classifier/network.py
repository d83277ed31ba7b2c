"""The text networks: readers side by side score a whole text, or one reads on and scores it after each token.

They know ids, lengths, and how words are found in ids, not text, data or training. Invariant: what stands beyond a
row's length, and which rows share the batch, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.recurrent import Recurrent
from training.tasks.classifier.text import KEY_PRIMES, KEYS, UNKNOWN_ID, WordIndex


class Tokens(nn.Module):
    """Embed tokens; in training some, at random, are read as unknown, so that unknown tokens are understood."""

    grams: Tensor

    def __init__(self, grams: Tensor, width: int, dropout: float, unknown: float) -> None:
        """Build the table: a vector for each token, and one for each run of characters that tokens share.

        In training the share `unknown` of tokens is hidden, and `dropout` of a row's features.

        Shapes: grams [vocabulary, longest] int64, as `training.tasks.classifier.text.grams_of` makes them.
        Source: a feature is left out for all of a row's steps, as Gal and Ghahramani, NeurIPS 2016, do.
        """
        super().__init__()
        self.table = nn.Embedding(len(grams), width)
        nn.init.normal_(self.table.weight, std=0.1)
        self.register_buffer("grams", grams, persistent=False)
        self.runs: nn.EmbeddingBag | None = None
        if grams.any():
            self.runs = nn.EmbeddingBag(int(grams.max()) + 1, width, mode="sum", padding_idx=0)
            nn.init.normal_(self.runs.weight, std=0.1)
        self.dropout, self.unknown = nn.Dropout1d(dropout), unknown

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time] of any integer type; lengths [batch]; returns [batch, time, width] float32."""
        if self.training:
            ids = ids.masked_fill(torch.rand(ids.shape, device=ids.device) < self.unknown, UNKNOWN_ID)
        embedded: Tensor = self.table(ids).float()
        if self.runs is not None:
            own, place = torch.unique(ids, return_inverse=True)
            embedded = embedded + self._spelt(self.runs, own)[place]
        return self.dropout(embedded.transpose(1, 2)).transpose(1, 2) if self.training else embedded

    def _spelt(self, runs: nn.EmbeddingBag, ids: Tensor) -> Tensor:
        """Sum the vectors of each token's runs, over the root of their number. Shapes: ids [n]; returns [n, width]."""
        grams = self.grams[ids]
        read: Tensor = runs(grams)
        return read / (grams > 0).sum(1, keepdim=True).clamp(min=1).sqrt()

    @torch.no_grad()
    def settle(self) -> None:
        """Sum each token's vectors into one, held in float16 to halve the file; what follows computes in float32."""
        if self.runs is not None:
            self.table.weight += self._spelt(self.runs, torch.arange(len(self.grams), device=self.grams.device))
            self.runs = None
        self.table.half()


class Words(Tokens):
    """Embed whole words where their last pieces stand, found by their pieces; before that a word is a blank."""

    begins: Tensor
    numbers: Tensor

    def __init__(self, index: WordIndex, width: int, dropout: float, unknown: float) -> None:
        """Build the table, a vector for each known word. `dropout` and `unknown` are as in `Tokens`."""
        super().__init__(torch.zeros(int(index.numbers.max()) + 1, 1, dtype=torch.int64), width, dropout, unknown)
        self.register_buffer("begins", index.begins, persistent=False)
        self.register_buffer("numbers", index.numbers, persistent=False)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: as of `Tokens`."""
        return super().forward(self.words(ids.long(), lengths), lengths)

    def words(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return each word's number where it ends, and 0 before. Shapes: ids [batch, time] int64; returns the same."""
        begins = self.begins[ids]
        key, inside = ids * KEY_PRIMES[0], ~begins
        for back, prime in enumerate(KEY_PRIMES[1:], start=1):
            key = key + prime * _earlier(ids, back) * inside
            inside = inside & (_earlier(begins.long(), back) == 0)
        numbers = self.numbers[key % KEYS].long().masked_fill(inside, UNKNOWN_ID)  # longer than any that is known
        place = torch.arange(ids.shape[1], device=ids.device)
        ends = functional.pad(begins.long(), (0, 1))[:, 1:] + (place == lengths[:, None] - 1)
        return numbers * (ends > 0)


def _earlier(values: Tensor, back: int) -> Tensor:
    """Return what stood `back` places before, 0 before the first. Shapes: values [batch, time]; returns the same."""
    return functional.pad(values, (back, 0))[:, : values.shape[1]]


class Reader(nn.Module):
    """Read a text and give a vote for each label: from the whole text in two directions, else from its end."""

    def __init__(self, tokens: Tokens, recurrent: Recurrent, labels: int, dropout: float) -> None:
        """Build the reader; the stack takes what the tokens' table gives."""
        super().__init__()
        self.tokens, self.recurrent = tokens, recurrent
        pooled = 4 if recurrent.bidirectional else 1
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(pooled * recurrent.hidden_size, labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, labels]."""
        read, _ = self.recurrent(self.tokens(ids, lengths), lengths)
        voted: Tensor = self.head(self.dropout((_pool if self.recurrent.bidirectional else _last)(read, lengths)))
        return voted


def _pool(read: Tensor, lengths: Tensor) -> Tensor:
    """Return mean and maximum of each row's own steps. Shapes: read [batch, time, n]; returns [batch, 2n]."""
    own = torch.arange(read.shape[1], device=read.device) < lengths[:, None]
    mean = read.sum(1) / lengths[:, None]  # outputs beyond the length are zero
    return torch.cat([mean, read.masked_fill(~own[..., None], -torch.inf).amax(1)], 1)


def _last(read: Tensor, lengths: Tensor) -> Tensor:
    """Return each row's last step. Shapes: read [batch, time, n]; returns [batch, n]."""
    return read.gather(1, (lengths.long() - 1)[:, None, None].expand(-1, 1, read.shape[2])).squeeze(1)


class TextNetwork(nn.Module):
    """Score a whole text by several readers, each of which learns alone; their mean vote counts."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self.readers = nn.ModuleList(readers)

    def votes(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time]; lengths [batch] int32; returns [readers, batch, labels]."""
        return torch.stack([reader(ids, lengths) for reader in self.readers])

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return probabilities. Shapes: ids [batch, time]; lengths [batch] int32; returns [batch, labels]."""
        return self.votes(ids, lengths).mean(0).softmax(-1)


class LiveTextNetwork(TextNetwork):
    """Score a text after each of its tokens, by one reader in one direction whose states are carried on."""

    def forward(self, ids: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the probabilities after each token, then the states.

        Shapes: ids [batch, time]; lengths [batch] int32; states as of the reader's stack; scores [batch, time, labels].
        """
        (reader,) = self.readers
        assert isinstance(reader, Reader)
        read, carried = reader.recurrent(reader.tokens(ids, lengths), lengths, states)
        return reader.head(read).softmax(-1), *carried
