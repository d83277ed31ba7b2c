"""Calibration of the live forecaster: run it over held-out streams, and fit conformal offsets to what followed.

It knows the network and streams, not where they come from. Invariant: an observation enters the fit once, beside the
quantiles predicted for it from the observations before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.series.conformal import conformal_offsets
from training.series.data import Values
from training.series.quantiles import LEVELS
from training.tasks.forecast_live.network import LiveNetwork


@dataclass(frozen=True)
class HeldOut:
    """Streams side by side, whose first `warm_up` observations only warm the network up.

    Shapes: values [streams, time].
    """

    values: Values
    warm_up: int


def fit_offsets(network: LiveNetwork, held_out: HeldOut) -> tuple[float, ...]:
    """Return the conformal offset of each level.

    Raises: ValueError, as `conformal.conformal_offsets`.
    """
    actual, quantiles = predictions(network, held_out)
    return conformal_offsets(actual.double().numpy(), quantiles.double().numpy(), LEVELS)


@torch.no_grad()
def predictions(network: LiveNetwork, held_out: HeldOut) -> tuple[Tensor, Tensor]:
    """Return the observations that calibrate, as steps from those before them, and what was predicted, as learned.

    Steps, because a small one is lost in the rounding of a large value.

    Shapes: [streams, time - warm_up] and [streams, time - warm_up, 13].
    """
    values = torch.from_numpy(held_out.values)
    lengths = torch.full((len(values),), values.shape[1], dtype=torch.int32)
    window, count, _, _, *recurrent = network.zero_states(len(values))
    steps, away, _ = network.predict(values, lengths, window, count, *recurrent)
    return steps[:, held_out.warm_up :], away[:, held_out.warm_up - 1 : -1]
