"""The runs of a trial: a model's largest, its longest texts, and a few runs that show what one costs.

A worker makes none: it gives the memory of a run back after it, and a shape that is new costs next to nothing
(docs/benchmarks.md). It knows engines and settings, not requests. Invariant: no request makes a run of more cells than
the trial's largest.
"""

from __future__ import annotations

import string
import time
from contextlib import suppress
from dataclasses import dataclass

from service.batching.queue import WINDOW
from service.engine.engine import Engine
from service.engine.probe import sample
from service.settings import Settings

ROWS, STEPS, REPEATS = 8, 16, 3  # few enough to take milliseconds, enough rows to tell a row's cost from a run's
RUN_S = 0.0001  # what a run costs under load beside the model: choosing and copying rows, handing over between threads


@dataclass(frozen=True)
class Costs:
    """What a step of a run costs beside its rows, in rows, and what a run costs beside its steps, in cells."""

    overhead_rows: float
    overhead_cells: float


def run_largest(engine: Engine, settings: Settings) -> None:
    """Make a run of as many cells as one may have: with the most rows where chunks are as good as the whole, or with
    the longest."""
    min_steps, steps = _row_steps(engine, settings)
    if not engine.manifest.sequence.has_time:
        steps = 1
    elif engine.manifest.streamable:
        steps = min(steps, max(min_steps, engine.batch_cells // WINDOW))
    rows = max(1, min(WINDOW, engine.batch_cells // steps))
    condition = None
    if engine.starter is not None:
        condition = max(1, min(_row_steps(engine.starter, settings)[1], engine.batch_cells // rows))
    engine.run(sample(engine, [steps] * rows, condition=condition))


def read_longest(engine: Engine, settings: Settings) -> None:
    """Tokenise texts as long as one may be, where the model reads texts: of one character, and of many."""
    manifest, vocabulary, length = engine.manifest, engine.model.vocabulary, settings.max_text_chars
    if vocabulary is not None:
        for characters in ("a", string.printable):
            text = (characters * length)[:length]
            with suppress(Exception):  # a text that the library fails on will fail alone
                vocabulary.encode([text], marked=manifest.adds_special_tokens, placed=manifest.needs_offsets)


def measure_costs(engine: Engine, settings: Settings) -> Costs:
    """Return what runs cost, measured on a few small runs."""
    min_steps, max_steps = _row_steps(engine, settings)
    steps = min(max_steps, max(min_steps, STEPS))
    alone_s, together_s = (_seconds(engine, [steps] * rows) for rows in (1, ROWS))
    row_s = max(together_s - alone_s, 1e-9) / (ROWS - 1)
    return Costs(overhead_rows=max(0.0, alone_s / row_s - 1), overhead_cells=RUN_S / row_s * steps)


def _row_steps(engine: Engine, settings: Settings) -> tuple[int, int]:
    """Return the fewest and the most steps of a row that the service takes."""
    min_steps, max_steps = engine.manifest.row_steps
    return min_steps, settings.max_steps if max_steps is None else max_steps


def _seconds(engine: Engine, lengths: list[int]) -> float:
    """Return the shortest time of a few equal runs."""
    times = []
    for _ in range(REPEATS):
        rows = sample(engine, lengths)
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return min(times)
