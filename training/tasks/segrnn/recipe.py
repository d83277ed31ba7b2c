"""The recipe `segrnn`: ETTh1 in, a published forecaster of its seven channels out.

It knows the data, and how the network is described and measured. Invariant: weights come from ETTh1's training part;
its validation part chose the checkpoint and calibrated the quantiles; its test part is read only to measure the
finished model.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service.contract import parts as contract
from service.contract import provenance, tensors
from training.datasets import find
from training.export.graph import Array, Servable
from training.recipe import Kind, Release
from training.series.conformal import OFFSETS
from training.series.data import ETT, read_ett
from training.tasks.segrnn.evaluation import ask_segrnn, etth1_figures
from training.tasks.segrnn.module import FIGURES, SegRNNModule, Settings
from training.tasks.segrnn.network import HORIZON, LEVELS, LOOKBACK, SegRNNNetwork

CHANNELS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")  # in the file's order
LICENCE = "Apache-2.0, as the project; trained on ETTh1 (Zhou et al., AAAI 2021), under its own licence"
LIMITS = (
    f"It forecasts one transformer's seven hourly channels, in their own units, from exactly {LOOKBACK} hours; of any "
    "other series it knows nothing.",
    "It knows no calendar: a holiday is a day like any other.",
    "Its quantiles were calibrated on the four months before the test part, which were harder to forecast than it: on "
    "easier months they are too wide. One offset a level serves all channels and hours ahead.",
    "The mean and the median are learned apart, and may differ.",
    "Which validation figure chooses its checkpoint was settled after test figures of earlier tries had been seen.",
)


def prepare(settings: Settings, seed: int) -> SegRNNModule:
    """Return a module on the data. Raises: DataError."""
    return SegRNNModule(read_ett(find(ETT).path), settings, seed)


def draw_walks(rng: np.random.Generator, length: int) -> Array:
    """Draw a random walk for each channel for the parity suite, of size about 1: at 64 a float32 step is 7.6e-6.

    Shapes: returns [length, 7] float32.
    """
    moves = rng.normal(size=(length, len(CHANNELS)))
    return np.cumsum(moves / np.sqrt(max(length, 1)), axis=0).astype(np.float32)


def servable(network: SegRNNNetwork, offsets: tuple[float, ...]) -> Servable:
    """Return the network with its signature."""
    channels = len(CHANNELS)
    return Servable(
        network,
        tensors.Tensor(name="values", dtype="float64", shape=("batch", "time", channels), labels=CHANNELS),
        (
            tensors.Tensor(name="mean", dtype="float64", shape=("batch", HORIZON, channels)),
            tensors.Tensor(name="quantiles", dtype="float64", shape=("batch", HORIZON, channels, len(LEVELS))),
        ),
        draw_walks,
        row_lengths=(LOOKBACK, LOOKBACK, LOOKBACK + 1),  # the service cuts to the first; the graph stands more
        constants={OFFSETS: offsets},
    )


def measure(name: str, url: str, stride: int = 1) -> tuple[provenance.Metric, ...]:
    """Measure the served model on ETTh1's test part, on every `stride`-th window."""
    return etth1_figures(read_ett(find(ETT).path), partial(ask_segrnn, url, name), stride)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, SegRNNModule)
    return Release(
        name=name,
        task="forecast",
        description=f"Forecasts the next {HORIZON} hours of ETTh1's seven channels, means and quantiles.",
        servable=servable(module.averaged, module.offsets()),
        data=(
            find(ETT).used_as(
                "first 8,640 rows trained on, next 2,880 chose the checkpoint and calibrated the quantiles, next 2,880 "
                "measured on, never trained on"
            ),
        ),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure, name),
        networks=(module.averaged.recurrent.network,),
        forecast=contract.Forecast(min_history=LOOKBACK, max_history=LOOKBACK, horizon=HORIZON, quantiles=LEVELS),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
