"""Words as a network sees them: texts as ids, points in units of its own, batches of words of like length.

It knows words and tensors, not networks. Invariant: what stands beyond a row's end is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.tasks.handwriting.data import Points, Word, scale_of

POOL = 20  # batches whose words are sorted by length together

Batch = tuple[Tensor, ...]  # points [rows, time, 3], how many of them, texts as ids [rows, memory], how many of them


@dataclass(frozen=True)
class Paper:
    """What a network's numbers mean: its characters in the order of their ids, and its unit.

    Units: `scale` in millimetres.
    """

    characters: str
    scale: float

    @classmethod
    def of(cls, words: Sequence[Word]) -> Self:
        """Learn the characters and the scale of a training part."""
        return cls("".join(sorted({character for word in words for character in word.text})), scale_of(words))

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return texts as ids; any other character has the id after the last one's, and an empty text is one of them.

        Shapes: ids [texts, longest] and lengths [texts], both int32.
        """
        known = {character: number for number, character in enumerate(self.characters)}
        return _padded([torch.tensor([known.get(each, len(known)) for each in text or "\0"]).int() for text in texts])

    def points(self, rows: Sequence[Points]) -> tuple[Tensor, Tensor]:
        """Return rows of points in the network's unit. Shapes: points [rows, longest, 3] and lengths [rows] int32."""
        unit = np.array([self.scale, self.scale, 1], np.float32)
        return _padded([torch.from_numpy(points / unit) for points in rows])

    def batches(self, words: Sequence[Word], rows: int, shuffle: torch.Generator | None = None) -> list[Batch]:
        """Cut into batches of words of like length, in random order if `shuffle` is given."""
        order = torch.randperm(len(words), generator=shuffle).tolist() if shuffle else range(len(words))
        mixed = [words[place] for place in order]
        pool = POOL * rows if shuffle else len(words)
        chunks = []
        for start in range(0, len(mixed), pool):
            alike = sorted(mixed[start : start + pool], key=lambda word: len(word.points))
            chunks += [alike[begin : begin + rows] for begin in range(0, len(alike), rows)]
        if shuffle:
            chunks = [chunks[place] for place in torch.randperm(len(chunks), generator=shuffle).tolist()]
        return [
            (*self.points([word.points for word in chunk]), *self.ids([word.text for word in chunk]))
            for chunk in chunks
        ]


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows], dtype=torch.int32)
