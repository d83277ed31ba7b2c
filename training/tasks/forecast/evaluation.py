"""The forecaster's figures beside their floors, on data that training never saw.

It knows test parts, measures, floors, and how to ask a running service for forecasts; what serves there it does not.

Invariant: a figure and its floor come from the same values in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from service.contract.provenance import Metric
from training.evaluate import ask
from training.series.data import ETT_TEST, ETT_TRAIN
from training.series.metrics import coverage, mase, smape
from training.series.quantiles import LEVELS, MEDIAN
from training.series.synthetic import UNSEEN_SEED
from training.tasks.forecast.network import HORIZON, MAX_HISTORY

Values = npt.NDArray[np.float64]

# From histories [time] and a horizon to quantiles [series, horizon, 13].
Forecaster = Callable[[list[Values], int], Values]

DAY = 24
ETT_STRIDE = 23  # hours between starts: every hour of the day is one
CLEAN_SEED, CLEAN_SIGNALS = UNSEEN_SEED + 2, 60
# Each signal's season over its phase, and the size of its slope in standard deviations of the season a step.
CLEAN: tuple[tuple[str, Callable[[Values], Values], float], ...] = (
    ("sine", lambda phase: np.asarray(np.sin(2 * np.pi * phase)), 0.0),
    ("sawtooth", lambda phase: phase % 1, 0.0),
    ("season_on_trend", lambda phase: np.asarray(np.sin(2 * np.pi * phase) + np.abs(np.sin(np.pi * phase))), 0.02),
)


def ask_forecast(url: str, model: str, histories: list[Values], horizon: int) -> Values:
    """Forecast by `POST /v1/forecast`. Shapes: as `Forecaster`."""
    series = [{"values": history.tolist()} for history in histories]
    results = ask(url, "/v1/forecast", "series", series, model=model, horizon=horizon)
    by_level = [[result["quantiles"][f"{level:g}"] for level in LEVELS] for result in results]
    return np.array(by_level).transpose(0, 2, 1)


def weekly_figures(histories: list[Values], futures: list[Values], forecast: Forecaster) -> tuple[Metric, ...]:
    """Measure forecasts of M4 weekly's test steps.

    Shapes: histories a list of [time]; futures a list of [13].
    """
    actual = np.stack(futures)
    quantiles = forecast([history[-MAX_HISTORY:] for history in histories], actual.shape[1])
    guesses = quantiles[..., MEDIAN], np.stack([np.full(actual.shape[1], history[-1]) for history in histories])
    scaled, scaled_naive = (mase(histories, actual, guess) for guess in guesses)
    percent, percent_naive = (smape(actual, guess) for guess in guesses)
    fresh = ~repeated(histories, futures)
    unrepeated = scaled[fresh].mean(), scaled_naive[fresh].mean()
    return (
        _metric("m4_weekly_test_mase", scaled.mean(), scaled_naive.mean(), "last value"),
        _metric("m4_weekly_test_mase_unrepeated", *unrepeated, "last value, without futures that training could hold"),
        _metric("m4_weekly_test_smape", percent.mean(), percent_naive.mean(), "last value"),
        *coverages("m4_weekly_test", actual, quantiles),
    )


def repeated(histories: list[Values], futures: list[Values]) -> npt.NDArray[np.bool_]:
    """Tell which futures also stand, up to shift and scale, somewhere in the histories, as some of M4 weekly do.

    Shapes: histories a list of [time]; futures a list of [13]; returns [series].
    """

    def keys(windows: Values) -> set[bytes]:
        steps = np.diff(windows, axis=1)
        size = np.abs(steps).sum(axis=1, keepdims=True)
        moving = size[:, 0] > 0
        return {row.tobytes() for row in np.round(steps[moving] / size[moving], 6) + 0.0}  # no negative zeros

    width = len(futures[0]) + 1
    known = set().union(*(keys(sliding_window_view(history, width)) for history in histories))
    ends = (np.append(history[-1], future) for history, future in zip(histories, futures, strict=True))
    return np.array([bool(keys(end[None]) & known) for end in ends])


def ett_figures(ett: Values, forecast: Forecaster) -> tuple[Metric, ...]:
    """Measure forecasts of the next two days on ETTh1's test part, every channel a series, OT also alone.

    Shapes: ett [time, 7], OT last.
    Units: the error in mean absolute changes from day to day of the channel's training part (MASE, seasonality 24).
    """
    starts = range(ETT_TEST.start, ETT_TEST.stop - HORIZON + 1, ETT_STRIDE)
    places = [(channel, start) for channel in range(ett.shape[1]) for start in starts]
    actual = np.stack([ett[start : start + HORIZON, channel] for channel, start in places])
    quantiles = forecast([ett[start - MAX_HISTORY : start, channel] for channel, start in places], HORIZON)
    yesterday = np.stack([ett[start - DAY + np.arange(HORIZON) % DAY, channel] for channel, start in places])
    by_channel = ett.shape[1], len(starts) * HORIZON
    errors, floors = (
        mase(list(ett[ETT_TRAIN].T), actual.reshape(by_channel), guess.reshape(by_channel), season=DAY)
        for guess in (quantiles[..., MEDIAN], yesterday)
    )
    of_ot = slice(-len(starts), None)
    return (
        *_zero_shot("etth1_ot_zero_shot", errors[-1:], floors[-1:], actual[of_ot], quantiles[of_ot]),
        *_zero_shot("etth1_all_zero_shot", errors, floors, actual, quantiles),
    )


def _zero_shot(name: str, errors: Values, floors: Values, actual: Values, quantiles: Values) -> list[Metric]:
    floor_method = "the value 24 steps ago (seasonal naive)"
    error = _metric(f"{name}_mase_48", errors.mean(), floors.mean(), floor_method)
    return [error, *coverages(name, actual, quantiles)]


def coverages(name: str, actual: Values, quantiles: Values) -> list[Metric]:
    """Measure how much the central 80 % and 95 % intervals hold. Shapes: as of `coverage`."""
    bounds = {80: (0.1, 0.9), 95: (0.025, 0.975)}
    return [_metric(f"{name}_coverage_{share}", coverage(actual, quantiles, *bounds[share])) for share in bounds]


def clean_figures(forecast: Forecaster) -> tuple[Metric, ...]:
    """Measure what a first user tries: signals without noise, each of a random period that need not be whole.

    Units: the error in standard deviations of the signal's season.
    """
    rng = np.random.default_rng(CLEAN_SEED)
    time = np.arange(MAX_HISTORY + HORIZON)
    metrics = []
    for name, shape, slope in CLEAN:
        periods = np.exp(rng.uniform(np.log(5), np.log(120), CLEAN_SIGNALS))
        seasons = shape(time / periods[:, None] + rng.random((CLEAN_SIGNALS, 1)))
        seasons /= seasons.std(axis=1, keepdims=True)
        signals = seasons + slope * rng.normal(size=(CLEAN_SIGNALS, 1)) * time
        quantiles = forecast(list(signals[:, :MAX_HISTORY]), HORIZON)
        whole = np.round(periods).astype(int)[:, None]
        past = MAX_HISTORY - whole + np.arange(HORIZON) % whole
        guesses = quantiles[..., MEDIAN], np.take_along_axis(signals, past, axis=1)
        error, floor = (np.abs(signals[:, MAX_HISTORY:] - guess).mean() for guess in guesses)
        metrics.append(_metric(f"clean_{name}_error", error, floor, "seasonal naive, told the period (rounded)"))
    return tuple(metrics)


def _metric(name: str, value: Any, floor: Any = None, floor_method: str | None = None) -> Metric:
    shown = None if floor is None else round(float(floor), 5)
    return Metric(name=name, value=round(float(value), 5), floor=shown, floor_method=floor_method)
