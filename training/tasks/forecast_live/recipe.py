"""The kind of recipe `forecast-live`: real and synthetic streams in, a published stepping forecaster out.

It knows the data's split and how the network is trained, calibrated, described and measured. Invariant: weights come
from M4 weekly's training file without each series' last 13 values, from ETTh1's training part and from synthetic
series; the first half of ETTh1's validation part and synthetic streams choose the checkpoint, the second half
calibrates; the test part is read only to measure the finished model. The benchmark's series trained nothing.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np
import torch
from pydantic import Field

from service.contract import provenance, tensors
from training.datasets import find
from training.export.graph import Servable
from training.recipe import Kind, Release
from training.series import synthetic
from training.series.conformal import OFFSETS
from training.series.data import (
    ETT,
    ETT_TRAIN,
    ETT_VALIDATION,
    HELD_OUT,
    WEEKLY_TRAIN,
    Mixture,
    Values,
    read_ett,
    read_weekly,
)
from training.series.nab import WINDOWS, read_nab
from training.series.quantiles import LEVELS
from training.series.synthetic import UNSEEN_SEED, draw_walk, synthesize_series
from training.tasks.forecast_live.calibration import HeldOut, fit_offsets
from training.tasks.forecast_live.evaluation import ask_likelihoods, ask_streams, live_figures, nab_figure
from training.tasks.forecast_live.module import WIDTH, Chunks, LiveModule
from training.tasks.forecast_live.network import WINDOW, LiveNetwork
from training.tasks.forecaster import WindowSettings

LICENCE = (
    "Apache-2.0, as the project; trained on ETTh1 (Zhou et al., AAAI 2021) and on the M4 competition's weekly series "
    "(Makridakis et al., 2020), each under its own licence, and on synthetic series"
)
SYNTHETIC_STREAMS = 9
WARM_UP = 512  # observations before those that calibrate
CALIBRATION = slice((ETT_VALIDATION.start + ETT_VALIDATION.stop) // 2, ETT_VALIDATION.stop)
LIMITS = (
    "It sees one series and nothing else: no calendar, no holidays, no other variables.",
    "The quantiles are calibrated on ETTh1's hourly streams: on series unlike these their coverage may differ "
    "(docs/training-log.md has M4 weekly's).",
    "An anomaly score says how far out, not whether anything is wrong: one in twenty ordinary observations is above 1.",
    "A likelihood is 0 for a session's first 128 observations, and near 0 for some 64 after one that was worth a "
    "report, unless something stands out further. Report from 0.45 on; that level, and what a likelihood is made of, "
    "were chosen by the Numenta Anomaly Benchmark, so its figure may be better than on streams never seen. What it "
    "remembers begins with a session's 16th observation: a glitch as that one, or the next, makes it less sharp.",
    "After one glitch, of whatever size, it is less sharp for some dozens of observations; several within fifty blind "
    "it for as long. Where a glitch is known as one, go on from the token before it (docs/state.md).",
    "A stream may have any level, as steps are taken in float64. Where float64 itself is coarse (numbers are 2e-7 "
    "apart at 1e9, 0.1 at 1e15), what moves by less is lost, and no answer says so.",
    "A stream that moves by more than 1e36 on average overflows float32 inside the graph, and is refused.",
    f"A season longer than {WINDOW} observations is held by the LSTM's memory alone.",
    "Before the second observation the scale is unknown: the first answer is a rough guess by the first value's size, "
    "and the first two observations of a session have the score 0.",
    "Missing observations must be filled by the caller: a skipped one shifts the season.",
)


class Settings(WindowSettings):
    """What a recipe of the kind `forecast-live` sets beside these."""

    ett_share: float = Field(ge=0, le=1)


def training_mixture(weekly: list[Values], ett: Values, weekly_share: float, ett_share: float) -> Mixture:
    """Mix what training may see: M4 weekly without each series' last values, ETTh1's training part, synthetic series.

    Shapes: weekly a list of [time]; ett [time, 7].
    """
    return Mixture.of([series[:-HELD_OUT] for series in weekly], ett, weekly_share, ett_share)


def prepare(settings: Settings, seed: int) -> LiveModule:
    """Return a module on the data. Raises: DataError."""
    weekly, ett = read_weekly(find(WEEKLY_TRAIN).path), read_ett(find(ETT).path)
    mixture = training_mixture(weekly, ett, settings.weekly_share, settings.ett_share)
    network = LiveNetwork(settings.hidden, settings.layers)
    held_out, rest = held_out_streams(ett), calibration_streams(ett)
    return LiveModule(settings, network, mixture, held_out, rest, seed)


def held_out_streams(ett: Values) -> Chunks:
    """Take the first half of ETTh1's validation part, a stream a channel that begins somewhat before it, and synthetic
    streams.

    Shapes: ett [time, 7].
    """
    real = ett[CALIBRATION.start - WIDTH : CALIBRATION.start].T
    streams = np.concatenate([real, synthesize_series(UNSEEN_SEED, SYNTHETIC_STREAMS, WIDTH)])
    lengths = torch.full((len(streams),), WIDTH, dtype=torch.int32)
    return Chunks(torch.from_numpy(streams.astype(np.float32)), lengths)


def calibration_streams(ett: Values) -> HeldOut:
    """Take the second half of ETTh1's validation part, and somewhat before it to warm up.

    M4 weekly's held-out values are no part of it: they lie in the intervals as learned more often than those say, and
    would narrow them for streams, which do not.

    Shapes: ett [time, 7].
    """
    return HeldOut(ett[CALIBRATION.start - WARM_UP : CALIBRATION.stop].T, WARM_UP)


def live_servable(network: LiveNetwork, offsets: tuple[float, ...]) -> Servable:
    """Return the network with its signature; the levels are the output's labels."""
    labels = tuple(f"{level:g}" for level in LEVELS)
    return Servable(
        network,
        tensors.Tensor(name="values", dtype="float64", shape=("batch", "time")),
        (
            tensors.Tensor(name="quantiles", dtype="float64", shape=("batch", "time", len(LEVELS)), labels=labels),
            tensors.Tensor(name="anomaly", dtype="float32", shape=("batch", "time")),
            tensors.Tensor(name="likelihood", dtype="float32", shape=("batch", "time")),
        ),
        draw_walk,
        states=network.states,
        streamable=True,
        constants={OFFSETS: offsets},
        row_lengths=(1, 2, 3, 8, WINDOW - 1, WINDOW, WINDOW + 1, 100, 400),
    )


def measure(model: str, url: str) -> tuple[provenance.Metric, ...]:
    """Measure the served model on ETTh1's test part, and on the Numenta Anomaly Benchmark."""
    ett = live_figures(read_ett(find(ETT).path), partial(ask_streams, url, model))
    return *ett, nab_figure(read_nab(find(WINDOWS).path), partial(ask_likelihoods, url, model))


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release, calibrated. Raises: DataError; ValueError, as `fit_offsets`."""
    assert isinstance(module, LiveModule)
    return Release(
        name=name,
        task="step",
        description="Predicts a stream's next observation, as quantiles, after each one, and says how far out that one "
        "was in what had been predicted for it, and how likely it is that people would mark it as anomalous.",
        servable=live_servable(module.network, fit_offsets(module.network, module.calibration)),
        data=(
            find(WEEKLY_TRAIN).used_as(f"trained on, without each series' last {HELD_OUT} values"),
            find(ETT).used_as(
                f"first {ETT_TRAIN.stop:,} rows trained on, next {CALIBRATION.start - ETT_TRAIN.stop:,} chose the "
                f"checkpoint, next {CALIBRATION.stop - CALIBRATION.start:,} calibrated, next 2,880 measured on, never "
                "trained on"
            ),
            find(WINDOWS).used_as("measured on, with its 58 series; it also chose the constants of likelihood"),
            synthetic.SOURCE,
        ),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure, name),
        networks=(module.network.recurrent.network,),
    )


KIND = Kind(Settings, ("val_loss",), prepare, release)
