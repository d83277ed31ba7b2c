"""A model's first runs, before the first request: the largest ones, and a few that show what a run costs.

ONNX Runtime takes memory when a larger run than before comes, and keeps it; after a warm-up nothing larger comes. New
shapes of the same size or less cost next to nothing (docs/benchmarks.md), so there are no buckets.
"""

from __future__ import annotations

import time

from service.engine import Engine
from service.probe import sample
from service.settings import Settings
from service.waiting import WINDOW

ROWS, STEPS, REPEATS = 8, 16, 5  # few enough to take milliseconds, enough rows to tell a row's cost from a run's
RUN_S = 0.0001  # what a run costs under load beside the model: choosing, copying, handing over from thread to thread


def warm(engine: Engine, settings: Settings) -> None:
    """Run what needs the most memory, and tell the batcher what runs cost."""
    manifest, cells = engine.manifest, engine.batch_cells
    shortest = 1
    longest = settings.max_steps
    if manifest.text is not None and manifest.task != "step":
        longest = manifest.text.max_length
    if manifest.forecast is not None:
        shortest, longest = manifest.forecast.min_history, manifest.forecast.max_history
    largest = (longest, min(longest, max(shortest, cells // WINDOW))) if manifest.sequence.has_time else (1,)
    for steps in largest:
        rows = max(1, min(WINDOW, cells // steps))
        engine.run(sample(engine, [steps] * rows))
    steps = min(longest, max(shortest, STEPS))
    one, many = (_seconds(engine, [steps] * rows) for rows in (1, ROWS))
    row_s = max(many - one, 1e-9) / (ROWS - 1)
    engine.batcher.calibrate(overhead_rows=max(0.0, one / row_s - 1), overhead_cells=RUN_S / row_s * steps)


def _seconds(engine: Engine, lengths: list[int]) -> float:
    """Return the shortest time of a few equal runs."""
    times = []
    for _ in range(REPEATS):
        rows = sample(engine, lengths)
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return min(times)
