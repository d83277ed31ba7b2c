"""A model's first runs, before the first request: the largest ones, and a few that show what a run costs.

ONNX Runtime takes memory when a larger run than before comes, and keeps it; after a warm-up nothing larger comes. New
shapes of the same size or less cost next to nothing (docs/benchmarks.md), so there are no buckets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.batching.queue import WINDOW
from service.engine.engine import Engine
from service.engine.probe import sample
from service.settings import Settings

ROWS, STEPS, REPEATS = 8, 16, 5  # few enough to take milliseconds, enough rows to tell a row's cost from a run's
RUN_S = 0.0001  # what a run costs under load beside the model: choosing, copying, handing over from thread to thread


@dataclass(frozen=True)
class Costs:
    """What each step of a run costs besides its rows, in rows, and a run besides its steps, in cells."""

    overhead_rows: float
    overhead_cells: float


def warm(engine: Engine, settings: Settings) -> None:
    """Run what needs the most memory."""
    fewest, most = _row_steps(engine, settings)
    cells, has_time = engine.batch_cells, engine.manifest.sequence.has_time
    for steps in (most, min(most, max(fewest, cells // WINDOW))) if has_time else (1,):
        rows = max(1, min(WINDOW, cells // steps))
        engine.run(sample(engine, [steps] * rows))


def measure_costs(engine: Engine, settings: Settings) -> Costs:
    """Return what runs cost, as a few small ones show."""
    fewest, most = _row_steps(engine, settings)
    steps = min(most, max(fewest, STEPS))
    alone_s, together_s = (_seconds(engine, [steps] * rows) for rows in (1, ROWS))
    row_s = max(together_s - alone_s, 1e-9) / (ROWS - 1)
    return Costs(overhead_rows=max(0.0, alone_s / row_s - 1), overhead_cells=RUN_S / row_s * steps)


def _row_steps(engine: Engine, settings: Settings) -> tuple[int, int]:
    """Return the fewest and the most steps of a row that the service takes."""
    fewest, most = engine.manifest.row_steps
    return fewest, settings.max_steps if most is None else most


def _seconds(engine: Engine, lengths: list[int]) -> float:
    """Return the shortest time of a few equal runs."""
    times = []
    for _ in range(REPEATS):
        rows = sample(engine, lengths)
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return min(times)
