"""Series that the forecaster's training left out, with their futures: of competitions, of hours, and of walks.

It knows files and how they are cut, not forecasters or measures. Invariant: no future here was trained on, calibrated
on or chose anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.datasets import find
from training.series.data import BEIJING, BIKES, M3, TOURISM, Values, read_competition, read_hours, unseen_hours
from training.series.synthetic import UNSEEN_SEED
from training.tasks.forecast.evaluation import DAY
from training.tasks.forecast.network import HORIZON, MAX_HISTORY

WALKS, WALK_HISTORY = 1000, 512
HOURS_APART = {BIKES: 71, BEIJING: 143}  # between starts, so that all hours of the day and days of the week come
MOST_GAPS = 0.1  # of a history of hours, which are filled by straight lines; a future has none
STEPS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Values]] = {
    "Gaussian steps": lambda rng, shape: rng.normal(size=shape),
    "steps of Student's t, 3 degrees": lambda rng, shape: rng.standard_t(3, shape),
}


@dataclass(frozen=True)
class LeftOut:
    """Series of a set with their futures, and the season by which their errors are scaled.

    Shapes: histories a list of [time]; futures [series, steps].
    """

    name: str
    histories: list[Values]
    futures: Values
    season: int

    def seasonal_naive(self) -> Values:
        """Return the values a season before, again and again. Shapes: [series, steps]."""
        ahead = np.arange(self.futures.shape[1]) % self.season
        return np.stack([history[len(history) - self.season + ahead] for history in self.histories])


def competition_sets() -> list[LeftOut]:
    """Return the futures that ended the competitions. Raises: DataError."""
    parts = (("m3_monthly", M3, "monthly", 12), ("m3_quarterly", M3, "quarterly", 4))
    sets = []
    for name, file, period, season in (*parts, ("tourism_monthly", TOURISM, "monthly", 12)):
        histories, futures = zip(*read_competition(find(file).path, period), strict=True)
        sets.append(LeftOut(name, list(histories), np.stack(futures), season))
    return sets


def hourly_sets() -> list[LeftOut]:
    """Return two days at a time of the last fifth of bikes and of the air of Beijing. Raises: DataError."""
    return [
        _hours(name, file, column) for name, file, column in (("bikes", BIKES, "cnt"), ("beijing", BEIJING, "pm2.5"))
    ]


def _hours(name: str, file: str, column: str) -> LeftOut:
    hours = read_hours(find(file).path, column)
    first = len(hours) - len(unseen_hours(hours))
    histories, futures = [], []
    for start in range(first, len(hours) - HORIZON + 1, HOURS_APART[file]):
        history, future = hours[start - MAX_HISTORY : start], hours[start : start + HORIZON]
        gaps = np.isnan(history)
        if gaps.mean() <= MOST_GAPS and not gaps[-1] and not np.isnan(future).any():
            place = np.arange(MAX_HISTORY)
            histories.append(np.interp(place, place[~gaps], history[~gaps]))
            futures.append(future)
    return LeftOut(name, histories, np.stack(futures), DAY)


def walk_sets() -> list[LeftOut]:
    """Return walks, of which nothing is known but the last value and how their steps vary."""
    sets = []
    for place, (name, draw) in enumerate(STEPS.items()):
        rng = np.random.default_rng(UNSEEN_SEED + 3 + place)
        walks = draw(rng, (WALKS, WALK_HISTORY + HORIZON)).cumsum(axis=1)
        sets.append(LeftOut(name, list(walks[:, :WALK_HISTORY]), walks[:, WALK_HISTORY:], 1))
    return sets
