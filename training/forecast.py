"""The recipe `forecast`: real and generated series in, a published forecaster out.

It knows the data's split and how the network is trained, described and measured. Invariant: weights come from M4
weekly's training file without each series' last 13 values, from ETTh1's training part and from generated series; those
last values and ETTh1's validation part choose the checkpoint; test parts are read only to measure the finished model.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service import contract, tensors
from training.conformal import OFFSETS
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
from training.generate import generate_series
from training.generate_patterns import generate_patterns
from training.recipe import Recipe, Release

WEEKLY_TRAIN, WEEKLY_TEST, ETT = "m4_weekly/Weekly-train.csv", "m4_weekly/Weekly-test.csv", "ett/ETTh1.csv"
HELD_OUT = 13  # last values of each M4 weekly series, as many as the competition's test asks for
GENERATED_FUTURES = 96  # that choose, and as many that calibrate: about as many steps as M4 weekly gives, twice
GENERATED_SEED = 2**62  # beyond every seed that training draws with
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


def prepare_forecast(seed: int, epochs: int) -> ForecastModule:
    """Return a module on the data. Raises: DataError."""
    weekly = read_weekly(find(WEEKLY_TRAIN).path)
    mixture = Mixture([series[:-HELD_OUT] for series in weekly], [], 0.35, 0.0, patterns_share=0.35)
    ends = [(series[:-HELD_OUT], series[-HELD_OUT:]) for series in weekly]
    choosing, calibrating = (generated_futures(GENERATED_SEED + part) for part in (0, 1))
    return ForecastModule(
        mixture, held_out_futures(ends[::2] + choosing), held_out_futures(ends[1::2] + calibrating), seed
    )


def generated_futures(seed: int) -> list[tuple[Values, Values]]:
    """Generate series of both kinds, and cut each into a history of any length and what follows it.

    Shapes: returns a list of a history [time] and its future [48].
    """
    rng = np.random.default_rng(seed)
    length = MAX_HISTORY + HORIZON
    half = GENERATED_FUTURES // 2
    series = np.concatenate([generate_series(seed, half, length), generate_patterns(seed, half, length)])
    ends = MIN_HISTORY + ((MAX_HISTORY - MIN_HISTORY) * rng.random(len(series)) ** 0.5).astype(int)
    return [(row[:end], row[end : end + HORIZON]) for row, end in zip(series, ends, strict=True)]


def draw_walk(rng: np.random.Generator, length: int) -> Array:
    """Draw a random walk for the parity suite; one in three rests between its moves, one in three is all zeros.

    It is of about unit size: at 64 one float32 step alone is 7.6e-6.

    Shapes: returns [length] float32.
    """
    moves = rng.normal(size=length) * (rng.random(length) < rng.choice([0.0, 0.1, 1.0]))
    return np.cumsum(moves / np.sqrt(max(length, 1))).astype(np.float32)


def forecast_servable(network: ForecastNetwork, offsets: tuple[float, ...]) -> Servable:
    """Return the network with its signature and its conformal offsets."""
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
        constants={OFFSETS: offsets},
    )


def measure_forecast(url: str) -> tuple[contract.Metric, ...]:
    """Measure the served model on both test parts."""
    forecast = partial(ask_forecast, url)
    histories, futures = read_weekly(find(WEEKLY_TRAIN).path), read_weekly(find(WEEKLY_TEST).path)
    return *weekly_figures(histories, futures, forecast), *ett_figures(read_ett(find(ETT).path), forecast)


def ett_use() -> str:
    """Say what each part of ETTh1 is for."""
    parts = (
        f"first {ETT_TRAIN.stop:,} rows trained on, next {ETT_VALIDATION.stop - ETT_TRAIN.stop:,} chose the checkpoint"
    )
    return parts + ", next 2,880 measured on, never trained on"


def release_forecast(module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, ForecastModule)
    return Release(
        name="forecast",
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
        measure=measure_forecast,
        network=module.network.recurrent.network,
        forecast=contract.Forecast(min_history=MIN_HISTORY, max_history=MAX_HISTORY, horizon=HORIZON, quantiles=LEVELS),
    )


FORECAST = Recipe(
    name="forecast",
    summary="quantiles of the next values of any series: a two-layer GRU on M4 weekly, ETTh1 and generated series",
    epochs=45,
    monitor="val_loss",
    mode="min",
    prepare=prepare_forecast,
    release=release_forecast,
    patience=10,
)
