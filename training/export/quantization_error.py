"""How far a quantized graph is from the float32 graph that it was made from, and how much faster it is.

It knows graphs and the rows that a `Servable` draws, not figures of a task. Invariant: times are processor time of one
thread, both graphs in turns, so that what else runs on the machine is not counted and what slows it slows both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.export.graph import Array, Servable
from training.export.parity import Suite, largest_gap

ROWS = 128
COMPANIES = (2, 8, 32)  # rows that share a run
BATCHES = (1, 8, 32)
PAIRS = 40
FEEDS = 8  # different ones, taken in turns


@dataclass(frozen=True)
class Difference:
    """What int8 or float16 changes.

    Units: `max_abs_difference` of any output or state of a row alone, from float32; `max_abs_movement` of the same with
    the rows that share its run; `speedups` by batch, the median of float32's time over that of the quantized graph, on
    rows of the longest length that the servable declares; `step_speedups` on single steps, of a model that streams.
    """

    max_abs_difference: float
    max_abs_movement: float
    speedups: Mapping[int, float]
    step_speedups: Mapping[int, float] | None


def measure(servable: Servable, float32: bytes, quantized: bytes, seed: int = 0) -> Difference:
    """Run both graphs on rows that `servable` draws, alone, in several companies, and in batches against the clock."""
    rng = np.random.default_rng(seed)
    exact, suite = Suite(servable, float32), Suite(servable, quantized)
    rows = [servable.draw(rng, length) for length in rng.choice(servable.row_lengths, ROWS)]
    alone = [suite.run_onnx([row])[0] for row in rows]
    movement = 0.0
    for company in COMPANIES:
        order = rng.permutation(ROWS)
        for places in order.reshape(-1, company):
            together = suite.run_onnx([rows[place] for place in places])
            gap = largest_gap(together, [alone[place] for place in places])
            movement = float(np.maximum(movement, gap))  # keeps a NaN
    longest = max(servable.row_lengths)
    return Difference(
        max_abs_difference=largest_gap(alone, [exact.run_onnx([row])[0] for row in rows]),
        max_abs_movement=movement,
        speedups=_speedups(servable, exact, suite, longest, rng),
        step_speedups=_speedups(servable, exact, suite, 1, rng) if servable.streamable else None,
    )


def _speedups(
    servable: Servable, float32: Suite, quantized: Suite, length: int, rng: np.random.Generator
) -> dict[int, float]:
    return {batch: _speedup(servable, float32, quantized, (batch, length), rng) for batch in BATCHES}


def _speedup(
    servable: Servable, float32: Suite, quantized: Suite, shape: tuple[int, int], rng: np.random.Generator
) -> float:
    batch, length = shape
    feeds = [
        servable.feeds(*servable.collate([servable.draw(rng, length) for _ in range(batch)])) for _ in range(FEEDS)
    ]
    for suite in (float32, quantized):
        suite.session.run(None, feeds[0])  # not timed: the first run of a shape allocates
    ratios = []
    for pair in range(PAIRS):
        given, turn = feeds[pair % FEEDS], (float32, quantized) if pair % 2 else (quantized, float32)
        seconds = {suite: _seconds(suite, given) for suite in turn}
        ratios.append(seconds[float32] / seconds[quantized])
    return statistics.median(ratios)


def _seconds(suite: Suite, given: dict[str, Array]) -> float:
    start = time.thread_time()  # the suite's sessions run on the thread that calls them
    suite.session.run(None, given)
    return time.thread_time() - start
