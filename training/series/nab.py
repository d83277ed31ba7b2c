"""The Numenta Anomaly Benchmark: its series, the windows that people marked in them, and its standard profile's score.

It knows files, windows and scores, not what made the scores. An observation is reported when its score reaches a
threshold, one for all series, the best there is. In a window only the earliest report counts, the more the earlier it
is; a window without one costs 1. A report outside costs up to 0.11, less just behind a window. The first part of a
series, its probation, counts for nothing.

Invariant: whatever is added to all scores, or multiplies them, changes no figure. A detector that never reports has 0,
one that reports each window at its first observation and nothing else has 100.

Source: Lavin and Ahmad, Evaluating real-time anomaly detection algorithms: the Numenta Anomaly Benchmark, ICMLA 2015;
github.com/numenta/NAB.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.errors import StartupError

Values = npt.NDArray[np.float64]

WINDOWS = "nab/combined_windows.json"
# Of the series' files, unpacked, one after the other in the order of their names.
SERIES_SHA256 = "b5b832b177f4412ef32897c85e92a9697d15663642d5bfe84cf9a4b42aafb88c"
PROBATION, LONGEST_PROBATION = 0.15, 750  # share of a series, and observations
FALSE_REPORT, MISSED = 0.11, 1.0  # the standard profile's weights; a window reported at once has 1
STEEPNESS = 5.0  # of the sigmoid, over a window's length
FAR = 3.0  # windows' lengths behind a window from where on a report costs in full


@dataclass(frozen=True)
class Labelled:
    """A series and its windows, each as its first and its last observation."""

    name: str
    values: Values
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """How many observations at the beginning count for nothing."""
        return min(int(PROBATION * len(self.values)), LONGEST_PROBATION)


@dataclass(frozen=True)
class Standing:
    """A score on the standard profile, 0 for silence and 100 for the perfect detector, and the threshold it is at."""

    score: float
    threshold: float


def read_nab(windows: Path) -> list[Labelled]:
    """Read all 58 series, which lie beside the file of their windows.

    Raises: StartupError where one is missing, or is not the one that the figures were made with.
    """
    marked = json.loads(windows.read_text())
    texts = {name: _unpacked(windows.parent / "data" / f"{name}.gz") for name in sorted(marked)}
    if (got := hashlib.sha256(b"".join(texts.values())).hexdigest()) != SERIES_SHA256:
        raise StartupError(f"the series beside {windows} have sha256 {got}, not {SERIES_SHA256}")
    return [_labelled(name, text.decode(), marked[name]) for name, text in texts.items()]


def _unpacked(file: Path) -> bytes:
    if not file.is_file():
        raise StartupError(f"{file} is missing; the benchmark is scored over all of its series")
    return gzip.decompress(file.read_bytes())


def _labelled(name: str, text: str, marked: Sequence[tuple[str, str]]) -> Labelled:
    rows = list(csv.DictReader(text.splitlines()))
    times = [datetime.fromisoformat(row["timestamp"]) for row in rows]
    windows = ((times.index(datetime.fromisoformat(a)), times.index(datetime.fromisoformat(b))) for a, b in marked)
    return Labelled(name, np.array([float(row["value"]) for row in rows]), tuple(windows))


def worth(series: Labelled) -> Values:
    """Return what a report at each observation is worth: in a window what it has if it is the earliest there.

    Shapes: returns [time].
    """
    time = np.arange(len(series.values))
    behind = np.full(len(time), FAR)  # in lengths of the latest window
    for first, last in series.windows:
        behind[last + 1 :] = (time[last + 1 :] - last) / max(last - first, 1)
    worths = FALSE_REPORT * _sigmoid(behind)
    for first, last in series.windows:
        inside = slice(first, last + 1)
        worths[inside] = _sigmoid((time[inside] - last - 1) / (last + 1 - first)) / _sigmoid(np.array(-1.0))
    return worths


def _sigmoid(place: Values) -> Values:
    """Return 1 well before a window's end, 0 at it, -1 well behind it. Units: place in lengths of the window."""
    return np.asarray(np.where(place >= FAR, -1.0, 2 / (1 + np.exp(STEEPNESS * place)) - 1))


def standard_score(series: Sequence[Labelled], scores: Sequence[Values]) -> Standing:
    """Score a detector at the threshold that is best for it over all series.

    Shapes: scores one [time] for each series; larger is more anomalous.
    """
    reported, changes = zip(*(_changes(each, own) for each, own in zip(series, scores, strict=True)), strict=True)
    at, change = np.concatenate(reported), np.concatenate(changes)
    order = np.argsort(-at, kind="stable")
    at, totals = at[order], np.cumsum(change[order])
    ends = np.append(at[1:] < at[:-1], True)  # observations that score the same are reported together
    thresholds, totals = np.append(np.inf, at[ends]), np.append(0.0, totals[ends])
    best = int(totals.argmax())
    windows = sum(len(each.windows) for each in series)
    return Standing(float(100 * totals[best] / ((1 + MISSED) * windows)), float(thresholds[best]))


def _changes(series: Labelled, scores: Values) -> tuple[Values, Values]:
    """Return by how much the total over silence's grows as the threshold falls to each score, in no order."""
    if scores.shape != series.values.shape:
        raise ValueError(f"{series.name} has {len(series.values)} observations, and scores of shape {scores.shape}")
    worths, counted = worth(series), np.arange(len(scores)) >= series.probation
    outside = counted.copy()
    reported, changes = [], []
    for first, last in series.windows:
        inside = slice(first, last + 1)
        outside[inside] = False
        own, value = scores[inside][counted[inside]], worths[inside][counted[inside]]
        order = np.argsort(-own, kind="stable")
        reported.append(own[order])
        changes.append(np.diff(np.maximum.accumulate(value[order]), prepend=-MISSED))
    return np.concatenate([*reported, scores[outside]]), np.concatenate([*changes, worths[outside]])
