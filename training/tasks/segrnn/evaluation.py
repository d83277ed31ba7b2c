"""SegRNN's figures beside their floors, on ETTh1's test part, by the published protocol.

It knows the protocol, and how to ask a running service for forecasts of several channels; what serves there it does
not. Every window is asked once, for the longest horizon; each horizon's figures come from the windows whose future it
still finds within the part.

Invariant: a figure and its floor come from the same windows in the same run, in standard deviations of the training
part.
Source: Zhou et al., Informer, AAAI 2021, for the parts; stride 1 and the last partial batch kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from service.contract.provenance import Metric
from training.evaluate import ask
from training.series.data import ETT_TEST, ETT_TRAIN, Values
from training.tasks.segrnn.module import HORIZONS
from training.tasks.segrnn.network import HORIZON, LOOKBACK

DAY = 24
WINDOWS_PER_CALL = 16  # an answer of 5,040 means and 20,160 bounds a window is about half a megabyte of JSON
INTERVALS = (80, 95)  # per cent

# From histories [windows, 720, channels] to means [windows, 720, channels] and the bounds of `INTERVALS`, from the
# lowest to the highest, [windows, 720, channels, 4].
ChannelForecaster = Callable[[Values], tuple[Values, Values]]


def ask_segrnn(url: str, name: str, histories: Values) -> tuple[Values, Values]:
    """Forecast by `POST /v1/forecast`. Shapes: as `ChannelForecaster`."""
    series = [{"values": history.tolist()} for history in histories]
    results = ask(url, "/v1/forecast", "series", series, model=name, horizon=HORIZON, levels=list(INTERVALS))
    means = np.array([result["mean"] for result in results])
    bounds = np.array([sorted_by_level(result["quantiles"]) for result in results])
    return means, bounds.transpose(0, 2, 3, 1)


def sorted_by_level(quantiles: dict[str, list[list[float]]]) -> list[list[list[float]]]:
    """Return an answer's quantiles from the lowest level to the highest."""
    return [quantiles[level] for level in sorted(quantiles, key=float)]


def etth1_figures(ett: Values, forecast: ChannelForecaster, stride: int = 1) -> tuple[Metric, ...]:
    """Measure every `stride`-th window whose future begins in the test part.

    Shapes: ett [time, channels].
    """
    unit = ett[ETT_TRAIN].std(axis=0)
    totals = {horizon: np.zeros(9) for horizon in HORIZONS}
    starts = range(ETT_TEST.start, ETT_TEST.stop - HORIZONS[0] + 1, stride)
    for at in range(0, len(starts), WINDOWS_PER_CALL):
        part = starts[at : at + WINDOWS_PER_CALL]
        histories = np.stack([ett[start - LOOKBACK : start] for start in part])
        means, bounds = forecast(histories)
        for start, history, mean, bound in zip(part, histories, means, bounds, strict=True):
            actual = ett[start : min(start + HORIZON, ETT_TEST.stop)]
            errors = window_errors(history, actual, mean, bound, unit)
            for horizon in HORIZONS:
                if len(actual) >= horizon:
                    totals[horizon] += np.append(errors[:horizon].mean(axis=0), 1)
    return tuple(metric for horizon in HORIZONS for metric in _metrics(horizon, totals[horizon]))


def window_errors(history: Values, actual: Values, mean: Values, bounds: Values, unit: Values) -> Values:
    """Score one window, step by step, each score averaged over the channels.

    Shapes: history [720, channels]; actual [steps, channels]; mean [720, channels]; bounds [720, channels, 4]; unit
    [channels]; returns [steps, 8]: squared and absolute error of the mean, of the value 24 steps ago repeated, and of
    the last value; whether each interval holds the actual value.
    """
    steps = np.arange(len(actual))
    guesses = mean[steps], history[steps % DAY - DAY], history[-1:]
    errors = [(actual - guess) / unit for guess in guesses]
    inside = [
        (actual >= bounds[steps, :, low]) & (actual <= bounds[steps, :, -1 - low])
        for low in reversed(range(len(INTERVALS)))
    ]
    scores = [score for error in errors for score in (error**2, np.abs(error))]
    return np.stack([score.mean(axis=1) for score in (*scores, *inside)], axis=1)


def _metrics(horizon: int, totals: Values) -> list[Metric]:
    *sums, windows = totals.tolist()
    mse, mae, seasonal_mse, seasonal_mae, last_mse, last_mae, *covered = (total / windows for total in sums)
    figures = [
        Metric(
            name=f"etth1_test_{kind}_{horizon}",
            value=round(value, 5),
            floor=round(seasonal, 5),
            floor_method=f"the value 24 steps ago (seasonal naive); the last value reaches {last:.3f}",
        )
        for kind, value, seasonal, last in (("mse", mse, seasonal_mse, last_mse), ("mae", mae, seasonal_mae, last_mae))
    ]
    return figures + [
        Metric(name=f"etth1_test_coverage_{interval}_{horizon}", value=round(share, 5))
        for interval, share in zip(INTERVALS, covered, strict=True)
    ]
