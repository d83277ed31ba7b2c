"""Histories for the forecasters: M4 weekly, ETTh1 by its published parts, synthetic series, and windows of all three.

It knows files, splits and sampling, not models. ETTh1 also enters training in coarser steps (means of 2 to 12 hours),
which gives its seven channels other periods.

Invariant: no training window holds a value of ETTh1 after row 8640 or of M4 weekly's test file.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.series.synthetic import synthesize_series
from training.series.synthetic_patterns import synthesize_patterns

Values = npt.NDArray[np.float64]

M3, TOURISM, BIKES, BEIJING = (
    *("m3_tourism/m3.jsonl.gz", "m3_tourism/tourism.jsonl.gz"),
    *("uci_hourly/bike_hour.csv.gz", "uci_hourly/beijing_pm25.csv.gz"),
)
WEEKLY_TRAIN, WEEKLY_TEST, ETT = "m4_weekly/Weekly-train.csv", "m4_weekly/Weekly-test.csv", "ett/ETTh1.csv"
HELD_OUT = 13  # last values of each M4 weekly series, as many as the competition's test asks for
# Months of 30 days: 12 for training, 4 for validation, 4 for test. Source: Zhou et al., Informer, AAAI 2021.
ETT_TRAIN, ETT_VALIDATION, ETT_TEST = slice(0, 8640), slice(8640, 11520), slice(11520, 14400)
SEEN = 0.8  # of an hourly set's hours, the first; the rest is its test part
COARSE_STEPS = (1, 1, 1, 2, 3, 4, 6, 12)


def read_weekly(file: Path) -> list[Values]:
    """Read M4 weekly series: a row each after the header, with its name first and empty cells at the end.

    Shapes: returns a list of [time].
    """
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    return [np.array([float(cell) for cell in row[1:] if cell]) for row in rows]


def read_competition(file: Path, *periods: str) -> list[tuple[Values, Values]]:
    """Read the histories and futures of a competition's series, of some periods or of all.

    Shapes: returns a list of [time] and [steps].
    """
    with gzip.open(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [row for row in rows if not periods or row["period"] in periods]
    return [(np.array(row["history"], np.float64), np.array(row["future"], np.float64)) for row in chosen]


def read_hours(file: Path, column: str) -> Values:
    """Read a column of hours; an hour without a value is NaN. Shapes: returns [time]."""
    with gzip.open(file, "rt", newline="") as lines:
        return np.array(
            [float(row[column]) if row[column] not in ("", "NA") else np.nan for row in csv.DictReader(lines)]
        )


def unseen_hours(hours: Values) -> Values:
    """Return the test part of an hourly set. Shapes: hours [time]; returns [unseen]."""
    return hours[int(SEEN * len(hours)) :]


def read_ett(file: Path) -> Values:
    """Read the seven channels of an ETT file, the date left out.

    Shapes: returns [time, 7].
    """
    return np.loadtxt(file, delimiter=",", skiprows=1, usecols=range(1, 8))


def coarser(series: Values, steps: int) -> Values:
    """Average every `steps` values into one; a rest at the end is dropped.

    Shapes: series [time]; returns [time // steps].
    """
    return np.asarray(series[: len(series) // steps * steps].reshape(-1, steps).mean(axis=1))


@dataclass(frozen=True)
class Mixture:
    """Training series and the share of windows that each source gives; synthetic series give the rest."""

    weekly: list[Values]
    ett: list[Values]
    weekly_share: float
    ett_share: float
    patterns_share: float = 0.0  # of `synthesize_patterns`

    def __post_init__(self) -> None:
        """Raises: ValueError when the shares are more than the whole."""
        if (total := self.weekly_share + self.ett_share + self.patterns_share) > 1:
            raise ValueError(f"the shares of windows add up to {total:g}; they are parts of one whole")

    @classmethod
    def of(cls, weekly: list[Values], ett: Values, weekly_share: float, ett_share: float) -> Mixture:
        """Take M4 weekly's training series as given, and ETTh1's training part in several step sizes."""
        channels = [coarser(channel, steps) for channel in ett[ETT_TRAIN].T for steps in COARSE_STEPS]
        return cls(weekly, channels, weekly_share, ett_share)

    def draw(self, seed: int, count: int, width: int) -> tuple[Tensor, Tensor]:
        """Draw `count` windows of up to `width` values; three in ten are cut to a random length.

        Shapes: returns values [count, width] float32, zero beyond each length, and lengths [count] int32.
        """
        rng = np.random.default_rng(seed)
        by_root_length = np.sqrt([len(series) for series in self.weekly])
        weekly, ett = int(count * self.weekly_share), int(count * self.ett_share)
        windows = _windows(rng, self.weekly, by_root_length, weekly, width)
        if ett:
            windows += _windows(rng, self.ett, np.ones(len(self.ett)), ett, width)
        patterns = int(count * self.patterns_share)
        windows += list(synthesize_patterns(seed, patterns, width))
        windows += list(synthesize_series(seed, count - weekly - ett - patterns, width))
        values = np.zeros((count, width), np.float32)
        lengths = np.zeros(count, np.int32)
        for row, place in enumerate(rng.permutation(count)):
            window = windows[row]
            if rng.random() < 0.3:
                window = window[: rng.integers(min(32, len(window)), len(window) + 1)]
            values[place, : len(window)] = window
            lengths[place] = len(window)
        return torch.from_numpy(values), torch.from_numpy(lengths)


def _windows(rng: np.random.Generator, series: list[Values], weight: Values, count: int, width: int) -> list[Values]:
    windows = []
    for index in rng.choice(len(series), count, p=weight / weight.sum()):
        length = min(len(series[index]), width)
        start = rng.integers(len(series[index]) - length + 1)
        windows.append(series[index][start : start + length])
    return windows


def pad(rows: list[Values]) -> tuple[Tensor, Tensor]:
    """Stack rows of any length, zero beyond each length.

    Shapes: rows a list of [time]; returns values [batch, longest] float32 and lengths [batch] int32.
    """
    values = np.zeros((len(rows), max(map(len, rows))), np.float32)
    for place, row in zip(values, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(values), torch.tensor([len(row) for row in rows], dtype=torch.int32)
