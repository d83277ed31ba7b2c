"""The pictures of docs/benchmarks.md, as small SVG files that are the same for the same numbers.

It knows matplotlib and raw results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

mpl.rcParams.update({"svg.hashsalt": "baton", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3})
SIZE_INCHES = (9.0, 3.4)


def plot_sweep(sweep: dict[str, Any], load_file: Path, batching_file: Path) -> None:
    """Draw answers and latency, and the runs' size and padding, against the load that was offered."""
    points, peak = sweep["points"], sweep["peak_per_s"]
    offered = [point["offered_per_s"] for point in points]

    figure, (answers, latency) = plt.subplots(1, 2, figsize=SIZE_INCHES)
    answers.plot(offered, [point["goodput_per_s"] for point in points], "o-", label="answers of 200")
    answers.plot(offered, offered, ":", color="gray", label="all of it")
    answers.set(ylabel="requests/s", ylim=(0, 1.5 * peak))
    for name in ("p50", "p99"):
        values = [point[f"{name}_ms"] for point in points]
        latency.plot(offered, [float("nan") if value is None else value for value in values], "o-", label=name)
    latency.set(ylabel="latency of the 200s, ms", yscale="log")
    _finish(figure, (answers, latency), peak, load_file)

    figure, (rows, padding) = plt.subplots(1, 2, figsize=SIZE_INCHES)
    rows.plot(offered, [point["batching"]["batch_rows"] for point in points], "o-", label="rows a run")
    rows.set(ylabel="rows", ylim=(0, None))
    padding.plot(offered, [point["batching"]["padding"] for point in points], "o-", label="padded over real steps")
    padding.set(ylabel="ratio", ylim=(1, None))
    _finish(figure, (rows, padding), peak, batching_file)


def plot_memory(memory_mb: Sequence[float], requests: Sequence[int], file: Path) -> None:
    """Draw memory against requests answered."""
    figure, axes = plt.subplots(figsize=SIZE_INCHES)
    axes.plot(requests, memory_mb)
    axes.set(xlabel="requests answered", ylabel="memory (PSS), MB", ylim=(0, None))
    _save(figure, file)


def _finish(figure: Any, both: Sequence[Any], peak: float, file: Path) -> None:
    for axes in both:
        axes.axvline(peak, color="gray", linestyle="--", linewidth=1, label="closed-loop peak")
        axes.set(xlabel="offered requests/s", xlim=(0, None))
        axes.legend(fontsize="small")
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
