"""The tagger's network: words and their characters in, the probabilities of each word's part of speech out.

It knows ids, not text, data or training. Invariant: what stands beyond a row's length, and which rows share the batch,
changes nothing; in one direction, k steps in one run equal k runs of one step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.recurrent import Recurrent

UNKNOWN_ID = 0
RUNS = (2, 3, 4, 5)  # characters that a filter sees
RARITY = 0.5  # a word that train holds twice is read without its own vector every fifth time


class Spelling(nn.Module):
    """Read a word's characters: the strongest answer of each filter, wherever in the word it is.

    Source: Kim et al., Character-Aware Neural Language Models, AAAI 2016.
    """

    def __init__(self, characters: int, width: int, filters: int) -> None:
        """`width` is of a character's vector; of each length there are so many `filters`."""
        super().__init__()
        self.table = nn.Embedding(characters, width)
        nn.init.normal_(self.table.weight, std=0.5)
        self.filters = nn.ModuleList(nn.Conv1d(width, filters, length, padding=length // 2) for length in RUNS)
        self.features = filters * len(RUNS)

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: ids [words, width of a word]; returns [words, filters of all lengths]."""
        if self.training:  # most words of a batch are the same few
            own, place = torch.unique(ids, dim=0, return_inverse=True)
            return self._read(own)[place]
        return self._read(ids)

    def _read(self, ids: Tensor) -> Tensor:
        characters = self.table(ids).transpose(1, 2)
        return torch.cat([functional.relu(each(characters)).amax(2) for each in self.filters], 1)


class Words(nn.Module):
    """Embed words: a vector that came from elsewhere and stays, one that is learned where the word was seen often
    enough, and one of the spelling.
    """

    vectors: Tensor
    hidden: Tensor

    def __init__(self, vectors: Tensor, counts: Tensor, width: int, spelling: Spelling, unknown: float) -> None:
        """In training a word's own vector is hidden the more often the rarer the word is, and both vectors of any word
        at the chance `unknown`, so that unknown words are understood. `width` is of the own vector.

        Shapes: vectors [vocabulary, given width] float16; counts [words that have an own vector].
        """
        super().__init__()
        self.own = nn.Embedding(len(counts), width)
        nn.init.normal_(self.own.weight, std=0.3)
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("hidden", RARITY / (RARITY + counts), persistent=False)
        self.spelling, self.unknown = spelling, unknown
        self.features = vectors.shape[1] + width + spelling.features

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: rows [batch, time, 1 + width of a word] of any integer type; returns [batch, time, features]."""
        words, characters = rows[..., 0].long(), rows[..., 1:].long()
        if self.training:
            words = words.masked_fill(torch.rand(words.shape, device=words.device) < self.unknown, UNKNOWN_ID)
        own = torch.where(words < len(self.hidden), words, UNKNOWN_ID)
        if self.training:
            own = own.masked_fill(torch.rand(own.shape, device=own.device) < self.hidden[own], UNKNOWN_ID)
        spelt = self.spelling(characters.flatten(0, 1)).unflatten(0, words.shape)
        return torch.cat([self.vectors[words].float(), self.own(own), spelt.float()], -1)


class TaggerNetwork(nn.Module):
    """Tag words: a stack of recurrent layers over embedded words, in both directions or in one that streams.

    In training, the finer tags are predicted as well.
    """

    def __init__(
        self, words: Words, recurrent: Recurrent, dropouts: tuple[float, float], tags: tuple[int, int]
    ) -> None:
        """`dropouts` of the words' features and of what the stack gives; `tags` are the numbers of tags and finer ones.

        Source: a feature of the words is left out for all of a row's steps, as Gal and Ghahramani, NeurIPS 2016, do.
        """
        super().__init__()
        self.words, self.recurrent = words, recurrent
        self.word_dropout, self.dropout = nn.Dropout1d(dropouts[0]), nn.Dropout(dropouts[1])
        width = recurrent.hidden_size * recurrent.directions
        self.coarse, self.fine = (nn.Linear(width, count) for count in tags)

    def read(self, rows: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what the heads see, and the states. Shapes: as `forward`."""
        embedded = self.words(rows)
        if self.training:
            embedded = self.word_dropout(embedded.transpose(1, 2)).transpose(1, 2)
        read, carried = self.recurrent(embedded, lengths, states or None)
        return self.dropout(read), carried

    def forward(self, rows: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities of each word's tags, then the states where they came in.

        Shapes: rows [batch, time, 1 + width of a word] of any integer type; lengths [batch] int32; states as
        `recurrent.states`; probabilities [batch, time, tags].
        """
        read, carried = self.read(rows, lengths, *states)
        probabilities = self.coarse(read).softmax(-1)
        return (probabilities, *carried) if states else (probabilities,)
