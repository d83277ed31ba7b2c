"""Calibration of the live forecaster: run it over held-out streams, and fit conformal offsets to what followed.

It knows the network and streams, not where they come from. Invariant: an observation enters the fit once, beside the
quantiles predicted for it from the observations before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.conformal import conformal_offsets
from training.forecast_data import Values, pad
from training.forecast_live_network import LiveNetwork
from training.forecast_metrics import LEVELS


@dataclass(frozen=True)
class HeldOut:
    """Streams, each with the number of its last observations that calibrate; those before them only warm it up.

    Shapes: streams a list of [time]; counts one for each, below its stream's length.
    """

    streams: list[Values]
    counts: list[int]

    def __add__(self, other: HeldOut) -> HeldOut:
        return HeldOut(self.streams + other.streams, self.counts + other.counts)


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

    Shapes: [observations] and [observations, 13].
    """
    values, lengths = pad(held_out.streams)
    window, count, _, *recurrent = network.zero_states(len(values))
    steps, away, _ = network.predict(values, lengths, window, count, *recurrent)
    place = torch.arange(1, values.shape[1])
    used = (place < lengths[:, None]) & (place >= lengths[:, None] - torch.tensor(held_out.counts)[:, None])
    return steps[:, 1:][used], away[:, :-1][used]
