"""Handwritten words: read, thinned to points that a network can follow, split by writer.

It knows the file and pens, not networks. A word is a row of points, each an offset from the point before and whether
its stroke ends there; the first point of the first stroke is the origin, and no row. Points are in millimetres. The
tablet gave 200 points a second, about 30 a letter, in thousandths of an inch. Every second one is kept, which is dense
in curves and sparse in straight lines as the hand was slow and fast, and of those only what lies 5 thousandths of an
inch from the point before, for a resting pen says nothing: about 15 a character.

In the order of their names every eighth writer from the fourth is for test, every eighth from the eighth chooses the
checkpoint, the other 24 train. Invariant: no part holds a word of a writer of another.

Source: UNIPEN, Guyon et al., ICPR 1994, release train_r01_v07, part sta.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from training.datasets import find

Points = npt.NDArray[np.float32]  # [points, 3]: offset to the right, offset upwards, 1 at a stroke's end
Part = Literal["train", "validation", "test"]

WORDS = "unipen_words/words.jsonl.gz"
MM = 0.0254  # in a thousandth of an inch
EVERY = 2
MIN_MOVE = 5.0  # thousandths of an inch
POINTS_A_CHARACTER = 5.0, 50.0  # a word with fewer or more is labelled wrongly, or its pen rested
MAX_POINTS = 300


@dataclass(frozen=True)
class Word:
    """A word as somebody wrote it. Units: `points` in millimetres."""

    writer: str
    text: str
    points: Points


def read_parts() -> dict[Part, list[Word]]:
    """Read the words in their parts. Raises: DataError."""
    return split(read_words(find(WORDS).path))


def read_words(file: Path) -> list[Word]:
    """Read every word of the file, odd ones too."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        held = map(json.loads, lines)
        return [Word(each["writer"], each["text"], offsets([*map(_placed, each["strokes"])])) for each in held]


def _placed(stroke: list[int]) -> Points:
    return np.array(stroke, np.float32).reshape(-1, 2)


def offsets(strokes: Sequence[Points]) -> Points:
    """Return a word's points after its first one. Shapes: strokes each [points, 2], absolute.

    Units: strokes in thousandths of an inch, what is returned in millimetres.
    """
    kept = [thinned(stroke) for stroke in strokes]
    ends = np.concatenate([np.arange(len(stroke)) == len(stroke) - 1 for stroke in kept])
    moves = np.diff(np.concatenate(kept), axis=0) * MM
    return np.concatenate([moves, ends[1:, None]], 1, dtype=np.float32)


def thinned(stroke: Points) -> Points:
    """Return the first of a stroke's points, and of every second other one, and the last, those that lie apart.

    Shapes: stroke and returned [points, 2].
    """
    kept = [stroke[0]]
    for point in (*stroke[EVERY:-1:EVERY], stroke[-1]):
        if np.hypot(*(point - kept[-1])) >= MIN_MOVE:
            kept.append(point)
    return np.stack(kept)


def is_sound(word: Word) -> bool:
    """Say whether a word has a plausible number of points for its characters."""
    fewest, most = (each * len(word.text) for each in POINTS_A_CHARACTER)
    return fewest <= len(word.points) <= min(most, MAX_POINTS)


def split(words: Iterable[Word]) -> dict[Part, list[Word]]:
    """Split words by their writers; odd ones are left out."""
    sound = [word for word in words if is_sound(word)]
    writers = sorted({word.writer for word in sound})
    parts: dict[Part, set[str]] = {"validation": {*writers[7::8]}, "test": {*writers[3::8]}}
    parts["train"] = {*writers} - parts["validation"] - parts["test"]
    return {part: [word for word in sound if word.writer in chosen] for part, chosen in parts.items()}


def scale_of(words: Iterable[Word]) -> float:
    """Return the root of the mean square of the pen's moves on paper. Units: millimetres."""
    drawn = [word.points[1:, :2][word.points[:-1, 2] == 0] for word in words]
    return float(np.sqrt(np.mean(np.concatenate(drawn) ** 2)))


def strokes_of(points: Points) -> list[Points]:
    """Return the strokes that the points draw from the origin on. Shapes: each [points, 2], absolute."""
    places = np.concatenate([np.zeros((1, 2), np.float32), points[:, :2].cumsum(0)])
    ends = [0, *(np.flatnonzero(points[:, 2] > 0) + 2), len(places)]
    return [places[start:end] for start, end in pairwise(ends) if end > start]
