"""What is worth a picture of `segrnn`: channels a month ahead, and error and coverage by hour ahead.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: the examples stand at fixed places of the test part, never chosen by their outcome.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from service.contract.manifest import Manifest
from training.datasets import find
from training.report.pages import Picture, Table
from training.report.plots import Fan, draw_coverage, draw_error, draw_fans
from training.series.data import ETT, ETT_TEST, ETT_TRAIN, Values, read_ett
from training.tasks.segrnn.evaluation import DAY, INTERVALS, WINDOWS_PER_CALL, ask_segrnn
from training.tasks.segrnn.network import HORIZON, LOOKBACK
from training.tasks.segrnn.recipe import CHANNELS

STRIDE = 48  # hours between two windows
EXAMPLES = (
    (CHANNELS.index("OT"), 5),
    (CHANNELS.index("OT"), 30),
    (CHANNELS.index("HUFL"), 5),
    (CHANNELS.index("LULL"), 5),
)
SHOWN_HISTORY, SHOWN_HORIZON = 336, 336


def report_segrnn(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on ETTh1's test part: every second day's forecast of all channels, 720 hours ahead."""
    ett = read_ett(find(ETT).path)
    starts = range(ETT_TEST.start, ETT_TEST.stop - HORIZON + 1, STRIDE)
    histories = np.stack([ett[start - LOOKBACK : start] for start in starts])
    actual = np.stack([ett[start : start + HORIZON] for start in starts])
    answers = [
        ask_segrnn(url, manifest.name, histories[at : at + WINDOWS_PER_CALL])
        for at in range(0, len(starts), WINDOWS_PER_CALL)
    ]
    means, bounds = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    where = f"ETTh1's test part, all channels, {len(starts)} windows"
    return (
        Picture(
            "channels",
            "Two weeks of the month ahead, at fixed windows: mean, 80 % and 95 % intervals.",
            _fans(histories, actual, means, bounds),
        ),
        Picture(
            "error-by-step",
            f"Mean squared error by hour ahead: {where}.",
            draw_error(
                _errors(histories, actual, means, ett[ETT_TRAIN].std(axis=0)), "ETTh1", "variances of the training part"
            ),
        ),
        Picture(
            "coverage",
            f"How many values fall into the intervals: {where}.",
            draw_coverage(_coverage(actual, bounds), "ETTh1"),
        ),
    ), ()


def _fans(histories: Values, actual: Values, means: Values, bounds: Values) -> Figure:
    ahead = slice(SHOWN_HORIZON)
    return draw_fans(
        [
            Fan(
                f"{CHANNELS[channel]}, window {window}",
                histories[window, -SHOWN_HISTORY:, channel],
                actual[window, ahead, channel],
                means[window, ahead, channel],
                {
                    interval: (bounds[window, ahead, channel, low], bounds[window, ahead, channel, -1 - low])
                    for interval, low in zip(INTERVALS, reversed(range(len(INTERVALS))), strict=True)
                },
            )
            for channel, window in EXAMPLES
        ],
        centre="mean",
    )


def _errors(histories: Values, actual: Values, means: Values, unit: Values) -> dict[str, Values]:
    guesses = {
        "segrnn": means,
        "24 hours before": histories[:, np.arange(HORIZON) % DAY - DAY],
        "last value": histories[:, -1:],
    }
    return {name: (((actual - guess) / unit) ** 2).mean(axis=(0, 2)) for name, guess in guesses.items()}


def _coverage(actual: Values, bounds: Values) -> dict[int, Values]:
    inside = {}
    for interval, low in zip(INTERVALS, reversed(range(len(INTERVALS))), strict=True):
        within = (actual >= bounds[..., low]) & (actual <= bounds[..., -1 - low])
        inside[interval] = within.mean(axis=(0, 2))
    return inside
