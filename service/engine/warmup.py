"""The first runs of a model, before the first request: its largest runs, and a few that show what a run costs.

ONNX Runtime takes memory for a run that is larger than all before, and keeps it; after the warm-up no run is larger.
New shapes of at most this size cost next to nothing (docs/benchmarks.md), so there are no buckets. It knows engines and
settings, not requests. Invariant: no request makes a run that needs more memory than the warm-up.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.batching.queue import WINDOW
from service.engine.engine import Engine
from service.engine.probe import sample
from service.settings import Settings

ROWS, STEPS, REPEATS = 8, 16, 5  # few enough to take milliseconds, enough rows to tell a row's cost from a run's
RUN_S = 0.0001  # what a run costs under load beside the model: choosing and copying rows, handing over between threads


@dataclass(frozen=True)
class Costs:
    """What a step of a run costs beside its rows, in rows, and what a run costs beside its steps, in cells."""

    overhead_rows: float
    overhead_cells: float


def warm(engine: Engine, settings: Settings) -> None:
    """Make the runs that need the most memory."""
    min_steps, max_steps = _row_steps(engine, settings)
    cells, has_time = engine.batch_cells, engine.manifest.sequence.has_time
    for steps in (max_steps, min(max_steps, max(min_steps, cells // WINDOW))) if has_time else (1,):
        rows = max(1, min(WINDOW, cells // steps))
        engine.run(sample(engine, [steps] * rows))


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
