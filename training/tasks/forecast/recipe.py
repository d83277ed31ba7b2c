"""The recipe `forecast`: real and synthetic series in, a published forecaster out.

It knows the data's split and how the network is trained, described and measured. Invariant: weights come from M4
weekly's training file without each series' last 13 values and from synthetic series; those last values, and other
synthetic series, choose the checkpoint with one half and calibrate with the other; M4 weekly's test file and the whole
of ETTh1 are read only to measure the finished model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import lightning
import numpy as np
from pydantic import Field

from service.contract import parts as contract
from service.contract import provenance, tensors
from training.datasets import find
from training.export.graph import Servable
from training.recipe import Kind, Release
from training.series import synthetic, synthetic_patterns
from training.series.conformal import OFFSETS
from training.series.data import ETT, HELD_OUT, WEEKLY_TEST, WEEKLY_TRAIN, Mixture, Values, read_ett, read_weekly
from training.series.quantiles import LEVELS
from training.series.synthetic import UNSEEN_SEED, draw_walk, synthesize_series
from training.series.synthetic_patterns import synthesize_patterns
from training.tasks.forecast.evaluation import ask_forecast, clean_figures, ett_figures, weekly_figures
from training.tasks.forecast.module import ForecastModule, held_out_futures
from training.tasks.forecast.network import HORIZON, MAX_HISTORY, MIN_HISTORY, SEGMENT, ForecastNetwork
from training.tasks.forecaster import WindowSettings

CHOOSING_FUTURES = 48  # synthetic, of each kind: as many steps as half of M4 weekly gives
# Synthetic too, with as many steps in all. Steps of the same future err alike: a few steps of many futures tell more.
CALIBRATING_FUTURES, CALIBRATING_EVERY = 480, 10
LICENCE = (
    "Apache-2.0, as the project; trained on the M4 competition's weekly series (Makridakis et al., 2020), under their "
    "own licence, and on synthetic series"
)
LIMITS = (
    "It sees one series and nothing else: no calendar, no holidays, no other variables.",
    f"It sees the last {MAX_HISTORY} values; a season that it has not seen one and a half times is beyond it.",
    "Intervals are conformal over the calibration series as a whole, one offset a level: on a single series, or on "
    "series unlike those, they may cover more or less than they say.",
    "After a history that repeats itself exactly the intervals are nearly as narrow as float32 allows: it takes the "
    "past at its word.",
    "The mean is the trapezoidal mean of the quantiles; it knows nothing of rare and large values beyond the outermost "
    "quantiles.",
    "Its answers follow shifts of the history, so it does not know where zero is. It stays above a least value that "
    "the history came back to again and again, as counts do to zero; a positive series that never rests may get "
    "negative quantiles.",
    "A history may have any level, as it is told from its last value in float64. Where it spans fewer than 16,384 of "
    "the numbers that float64 has at its level, the answer warns.",
    "Differences beyond 1e30 in size overflow float32 inside the graph.",
)


class Settings(WindowSettings):
    """What a recipe of the kind `forecast` sets beside these; dropout is in decoder and stack."""

    patterns_share: float = Field(ge=0, le=1)
    decoder: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)


def prepare(settings: Settings, seed: int) -> ForecastModule:
    """Return a module on the data. Raises: DataError."""
    weekly = read_weekly(find(WEEKLY_TRAIN).path)
    mixture = training_mixture(weekly, settings)
    ends = [(series[:-HELD_OUT], series[-HELD_OUT:]) for series in weekly]
    drawn = synthetic_futures(UNSEEN_SEED, CHOOSING_FUTURES, synthesize_series, synthesize_patterns)
    choosing = held_out_futures(ends[::2] + drawn)
    # Patterns do not calibrate: those without noise are missed by little, but by many times their narrow intervals, and
    # one offset a level would widen all others for them.
    drawn = synthetic_futures(UNSEEN_SEED + 1, CALIBRATING_FUTURES, synthesize_series)
    calibrating = held_out_futures(ends[1::2] + thinned(drawn, CALIBRATING_EVERY))
    network = ForecastNetwork(settings.hidden, settings.layers, settings.decoder, settings.dropout)
    return ForecastModule(settings, network, mixture, choosing, calibrating, seed)


def training_mixture(weekly: list[Values], settings: Settings) -> Mixture:
    """Mix what training may see: M4 weekly without each series' last values, and synthetic series of both kinds.

    Shapes: weekly a list of [time].
    """
    cut = [series[:-HELD_OUT] for series in weekly]
    return Mixture(cut, [], settings.weekly_share, 0.0, settings.patterns_share)


def synthetic_futures(seed: int, count: int, *kinds: Callable[[int, int, int], Values]) -> list[tuple[Values, Values]]:
    """Draw `count` synthetic series of each kind, and cut each into a history of any length and what follows it.

    Shapes: returns a list of a history [time] and its future [48].
    """
    rng = np.random.default_rng(seed)
    length = MAX_HISTORY + HORIZON
    series = np.concatenate([synthesize(seed, count, length) for synthesize in kinds])
    ends = MIN_HISTORY + ((MAX_HISTORY - MIN_HISTORY) * rng.random(len(series)) ** 0.5).astype(int)
    return [(row[:end], row[end : end + HORIZON]) for row, end in zip(series, ends, strict=True)]


def thinned(futures: list[tuple[Values, Values]], every: int) -> list[tuple[Values, Values]]:
    """Keep every `every`-th step of each future, and make the others NaN; each future begins at the next place.

    Shapes: futures a list of a history [time] and its future [steps]; returns the same.
    """
    steps = [np.arange(len(future)) % every == place % every for place, (_, future) in enumerate(futures)]
    return [(history, np.where(kept, future, np.nan)) for (history, future), kept in zip(futures, steps, strict=True)]


def forecast_servable(network: ForecastNetwork, offsets: tuple[float, ...]) -> Servable:
    """Return the network with its signature and its conformal offsets."""
    lengths = (1, MIN_HISTORY, SEGMENT, SEGMENT + 1, 100, MAX_HISTORY - 1, MAX_HISTORY)
    return Servable(
        network,
        tensors.Tensor(name="values", dtype="float64", shape=("batch", "time")),
        (
            tensors.Tensor(name="mean", dtype="float64", shape=("batch", HORIZON)),
            tensors.Tensor(name="quantiles", dtype="float64", shape=("batch", HORIZON, len(LEVELS))),
        ),
        draw_walk,
        row_lengths=lengths,
        constants={OFFSETS: offsets},
    )


def measure_forecast(model: str, url: str) -> tuple[provenance.Metric, ...]:
    """Measure the served model on M4 weekly's test part, on ETTh1, and on clean signals."""
    forecast = partial(ask_forecast, url, model)
    histories, futures = read_weekly(find(WEEKLY_TRAIN).path), read_weekly(find(WEEKLY_TEST).path)
    return (
        *weekly_figures(histories, futures, forecast),
        *ett_figures(read_ett(find(ETT).path), forecast),
        *clean_figures(forecast),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module, calibrated, as a release. Raises: DataError."""
    assert isinstance(module, ForecastModule)
    return Release(
        name=name,
        task="forecast",
        description=f"Forecasts the next {HORIZON} values of any series, as quantiles, from its history alone.",
        servable=forecast_servable(module.network, module.offsets()),
        data=(
            find(WEEKLY_TRAIN).used_as(
                f"trained on, without each series' last {HELD_OUT} values: those of every second series chose the "
                "checkpoint, those of the others calibrated"
            ),
            find(WEEKLY_TEST).used_as("measured on, never trained on"),
            find(ETT).used_as(
                "measured on (rows 11,521 to 14,400); no row of it was trained or calibrated on or chose a checkpoint, "
                "but one choice of the network looked at it (docs/training-log.md)"
            ),
            synthetic.SOURCE,
            synthetic_patterns.SOURCE,
        ),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure_forecast, name),
        networks=(module.network.recurrent.network,),
        forecast=contract.Forecast(min_history=MIN_HISTORY, max_history=MAX_HISTORY, horizon=HORIZON, quantiles=LEVELS),
    )


KIND = Kind(Settings, ("val_loss",), prepare, release)
