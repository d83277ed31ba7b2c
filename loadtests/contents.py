"""What the simulated users send: texts and series of mixed length, real where there is data, else generated.

Real are the SST-2 test sentences and the M4 weekly series of `BATON_DATA_DIR`. It knows neither HTTP nor users.
Invariant: the same data and the same random generator draw the same payloads.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from loadtests.payloads import read_series, read_texts
from training.datasets import VARIABLE, find
from training.series.synthetic import synthesize_series

WORDS = (
    "the a this that film story plot cast scene ending music director is was feels looks warm funny dull slow bright "
    "clever flat moving tired fresh never always rather quite too not very and but while because , ;"
)
GENERATED = 400
MAX_WORDS = 40
SERIES_LENGTH = 1024
MAX_ITEMS = 8
SHORTEST_HISTORY, LONGEST_HISTORY = 16, 512


@dataclass(frozen=True)
class Payloads:
    """Sentences and series to draw from; `source` says where they come from."""

    sentences: list[str]
    series: list[list[float]]
    source: str

    def text(self, rng: random.Random) -> str:
        """Draw a text of one to four sentences, most often one."""
        return " ".join(rng.choices(self.sentences, k=rng.choice((1, 1, 1, 2, 4))))

    def texts(self, rng: random.Random) -> list[str]:
        return [self.text(rng) for _ in range(rng.randint(1, MAX_ITEMS))]

    def histories(self, rng: random.Random) -> list[list[float]]:
        """Draw the last values of some series: short histories as often as long ones."""
        return [self._history(rng) for _ in range(rng.randint(1, MAX_ITEMS))]

    def _history(self, rng: random.Random) -> list[float]:
        wanted = round(SHORTEST_HISTORY * (LONGEST_HISTORY / SHORTEST_HISTORY) ** rng.random())
        return rng.choice(self.series)[-wanted:]


def load_payloads() -> Payloads:
    """Return payloads from `BATON_DATA_DIR` where it is set, else generated ones.

    Raises: training.datasets.DataError when a file is missing there, or is another one.
    """
    return _real() if os.environ.get(VARIABLE) else _generated()


def _real() -> Payloads:
    data = find("sst2/test.tsv").path.parents[1]
    find("m4_weekly/Weekly-train.csv")
    sentences, series = read_texts(data), read_series(data)
    return Payloads(sentences, series, f"real: {len(sentences)} sentences of SST-2, {len(series)} series of M4 weekly")


def _generated() -> Payloads:
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(WORDS.split(), k=rng.randint(1, MAX_WORDS))) + " ." for _ in range(GENERATED)]
    series = synthesize_series(0, GENERATED, SERIES_LENGTH).round(4).tolist()
    return Payloads(sentences, series, f"generated ({VARIABLE} is not set)")
