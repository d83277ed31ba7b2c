"""How far a graph in narrower arithmetic is from the float32 graph it was made from, and how much faster it is.

It knows graphs and the rows that a `Servable` draws, not figures of a task. Invariant: times are taken in turns, float32
and narrow, in one process on one thread, so that what slows the machine slows both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime

from training.export import Array, Servable
from training.parity import Suite, largest_gap

ROWS = 128
COMPANIES = (2, 8, 32)  # rows that share a run
BATCHES = (1, 8, 32)
PAIRS = 40
FEEDS = 8  # different ones, taken in turns


@dataclass(frozen=True)
class Drift:
    """What narrower arithmetic changes.

    Units: `max_abs_difference` of any output or state of a row alone, from float32; `max_abs_movement` of the same with
    the rows that share its run; `speedups` by batch, the median of float32's time over the narrow graph's.
    """

    max_abs_difference: float
    max_abs_movement: float
    speedups: Mapping[int, float]


def measure(servable: Servable, float32: bytes, narrow: bytes, seed: int = 0) -> Drift:
    """Run both graphs on rows that `servable` draws, alone, in several companies, and in batches against the clock."""
    rng = np.random.default_rng(seed)
    wide, suite = Suite(servable, float32), Suite(servable, narrow)
    rows = [servable.draw(rng, length) for length in rng.choice(servable.row_lengths, ROWS)]
    alone = [suite.run_onnx([row])[0] for row in rows]
    movement = 0.0
    for company in COMPANIES:
        order = rng.permutation(ROWS)
        for places in order.reshape(-1, company):
            together = suite.run_onnx([rows[place] for place in places])
            gap = largest_gap(together, [alone[place] for place in places])
            movement = float(np.maximum(movement, gap))  # keeps a NaN
    return Drift(
        max_abs_difference=largest_gap(alone, [wide.run_onnx([row])[0] for row in rows]),
        max_abs_movement=movement,
        speedups={batch: _speedup(servable, wide.session, suite.session, batch, rng) for batch in BATCHES},
    )


def _speedup(
    servable: Servable,
    wide: onnxruntime.InferenceSession,
    narrow: onnxruntime.InferenceSession,
    batch: int,
    rng: np.random.Generator,
) -> float:
    """Time both in turns. A model that streams is timed at one step a run, another at rows of the lengths it declares."""
    lengths = (1,) if servable.streamable else servable.row_lengths
    feeds = [
        servable.feeds(*servable.collate([servable.draw(rng, length) for length in rng.choice(lengths, batch)]))
        for _ in range(FEEDS)
    ]
    for given in feeds:  # not timed: the first run of a shape allocates
        _seconds(wide, given), _seconds(narrow, given)
    ratios = []
    for pair in range(PAIRS):
        given = feeds[pair % FEEDS]
        if pair % 2:
            ratios.append(_seconds(wide, given) / _seconds(narrow, given))
        else:
            ratios.append(1 / (_seconds(narrow, given) / _seconds(wide, given)))
    return statistics.median(ratios)


def _seconds(session: onnxruntime.InferenceSession, given: dict[str, Array]) -> float:
    start = time.perf_counter()
    session.run(None, given)
    return time.perf_counter() - start
