"""The recipe `forecast`: real and generated series in, a published forecaster out.

It knows the data's split and how the network is trained, described and measured. Invariant: weights come from M4
weekly's training file without each series' last 13 values, from ETTh1's training part and from generated series; those
last values and ETTh1's validation part choose the checkpoint; test parts are read only to measure the finished model.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np
from pydantic import Field

from service import contract, tensors
from training.data import find
from training.export import Array, Servable
from training.forecast_data import ETT_TRAIN, ETT_VALIDATION, Mixture, Values, read_ett, read_weekly
from training.forecast_evaluation import (
    ask_forecast,
    ett_figures,
    weekly_figures,
)
from training.forecast_metrics import LEVELS
from training.forecast_network import HORIZON, MAX_HISTORY, MIN_HISTORY, SEGMENT, ForecastNetwork
from training.forecast_training import ForecastModule, held_out_futures
from training.recipe import Release, Table

WEEKLY_TRAIN, WEEKLY_TEST, ETT = "m4_weekly/Weekly-train.csv", "m4_weekly/Weekly-test.csv", "ett/ETTh1.csv"
HELD_OUT = 13  # last values of each M4 weekly series, as many as the competition's test asks for
VALIDATION_STRIDE = 60  # hours between the ETTh1 futures that validate: as many as there are M4 weekly series
LICENCE = (
    "as the project; trained on ETTh1 (Zhou et al., AAAI 2021) and on the M4 competition's weekly series "
    "(Makridakis et al., 2020), each under its own licence, and on generated series"
)
GENERATED = contract.DataSource(name="generated series", part="training/generate.py, drawn by seed: trained on")
LIMITS = (
    "It sees one series and nothing else: no calendar, no holidays, no other variables.",
    "The quantiles are as learned, not conformal: their coverage on series unlike the training data may differ.",
    "Values beyond 1e30 in size overflow float32 inside the graph.",
)
FORECAST_LIMITS = (
    f"It sees the last {MAX_HISTORY} values; a season longer than about half of that is beyond it.",
    "It was trained on noisy series: a noiseless season or line is continued only roughly, its quantiles too wide.",
    "The mean is the trapezoidal mean of the quantiles; of rare and large values beyond the outermost ones it knows "
    "nothing.",
    "Its answers follow shifts of the history, so it does not know where zero is: a count may get negative quantiles.",
)


def training_mixture(weekly: list[Values], ett: Values, weekly_share: float, ett_share: float) -> Mixture:
    """Mix what training may see: M4 weekly without each series' last values, ETTh1's training part, generated series.

    Shapes: weekly a list of [time]; ett [time, 7].
    """
    return Mixture.of([series[:-HELD_OUT] for series in weekly], ett, weekly_share, ett_share)


class MixtureSettings(Table):
    """What both kinds of forecaster set of their data: windows an epoch, and the shares of M4 weekly and of ETTh1."""

    windows: int = Field(ge=1)
    weekly_share: float = Field(ge=0, le=1)
    ett_share: float = Field(ge=0, le=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class Settings(MixtureSettings):
    """What a recipe of the kind `forecast` sets."""

    decoder: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)


def prepare(settings: Settings, seed: int) -> ForecastModule:
    """Return a module on the data. Raises: DataError."""
    weekly, ett = read_weekly(find(WEEKLY_TRAIN).path), read_ett(find(ETT).path)
    futures = [(series[:-HELD_OUT], series[-HELD_OUT:]) for series in weekly]
    for start in range(ETT_VALIDATION.start, ETT_VALIDATION.stop - HORIZON + 1, VALIDATION_STRIDE):
        futures += [(channel[start - MAX_HISTORY : start], channel[start : start + HORIZON]) for channel in ett.T]
    mixture = training_mixture(weekly, ett, settings.weekly_share, settings.ett_share)
    network = ForecastNetwork(settings.hidden, settings.layers, settings.decoder, settings.dropout)
    return ForecastModule(network, mixture, held_out_futures(futures), seed, settings.windows, settings.learning_rate)


def draw_walk(rng: np.random.Generator, length: int) -> Array:
    """Draw a random walk for the parity suite; one in three rests between its moves, one in three is all zeros.

    It is of about unit size: at 64 one float32 step alone is 7.6e-6.

    Shapes: returns [length] float32.
    """
    moves = rng.normal(size=length) * (rng.random(length) < rng.choice([0.0, 0.1, 1.0]))
    return np.cumsum(moves / np.sqrt(max(length, 1))).astype(np.float32)


def forecast_servable(network: ForecastNetwork) -> Servable:
    """Return the network with its signature."""
    lengths = (1, MIN_HISTORY, SEGMENT, SEGMENT + 1, 100, MAX_HISTORY - 1, MAX_HISTORY)
    return Servable(
        network,
        tensors.Tensor(name="values", dtype="float32", shape=("batch", "time")),
        (
            tensors.Tensor(name="mean", dtype="float32", shape=("batch", HORIZON)),
            tensors.Tensor(name="quantiles", dtype="float32", shape=("batch", HORIZON, len(LEVELS))),
        ),
        draw_walk,
        row_lengths=lengths,
    )


def measure_forecast(model: str, url: str) -> tuple[contract.Metric, ...]:
    """Measure the served model on both test parts."""
    forecast = partial(ask_forecast, url, model)
    histories, futures = read_weekly(find(WEEKLY_TRAIN).path), read_weekly(find(WEEKLY_TEST).path)
    return *weekly_figures(histories, futures, forecast), *ett_figures(read_ett(find(ETT).path), forecast)


def ett_use() -> str:
    """Say what each part of ETTh1 is for."""
    parts = (
        f"first {ETT_TRAIN.stop:,} rows trained on, next {ETT_VALIDATION.stop - ETT_TRAIN.stop:,} chose the checkpoint"
    )
    return parts + ", next 2,880 measured on, never trained on"


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, ForecastModule)
    return Release(
        name=name,
        task="forecast",
        description=f"Forecasts the next {HORIZON} values of any series, as quantiles, from its history alone.",
        servable=forecast_servable(module.network),
        data=(
            find(WEEKLY_TRAIN).used_as(
                f"trained on, without each series' last {HELD_OUT} values: they chose the checkpoint"
            ),
            find(WEEKLY_TEST).used_as("measured on, never trained on"),
            find(ETT).used_as(ett_use()),
            GENERATED,
        ),
        licence=LICENCE,
        limits=LIMITS + FORECAST_LIMITS,
        measure=partial(measure_forecast, name),
        network=module.network.recurrent.network,
        forecast=contract.Forecast(min_history=MIN_HISTORY, max_history=MAX_HISTORY, horizon=HORIZON, quantiles=LEVELS),
    )
