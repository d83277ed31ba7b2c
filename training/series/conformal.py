"""Conformal offsets: widen or narrow learned quantiles until validation data falls below each as often as it says.

It knows quantiles and actual values, not networks or series. A quantile is judged by its distance from the median. The
score of an actual value is its own distance from the median, divided by that of the quantile: it has no unit. The
offset of a level is the finite-sample corrected quantile of the scores, minus 1. The graph takes the offsets as an
input, so that a new calibration needs no new graph.

The median is taken as it is. Where the median is biased, a quantile may cover more or less than its level says.

Invariants: zero offsets change nothing, the median never moves, and quantiles in order stay in order.
Source: conformalized quantile regression, Romano, Patterson and Candes, NeurIPS 2019, with scores scaled by the
quantile's own distance and each level on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = npt.NDArray[np.float64]

OFFSETS = "conformal_offsets"  # the graph's input, and the manifest's constant


def conformal_offsets(actual: Values, quantiles: Values, levels: Sequence[float]) -> tuple[float, ...]:
    """Return an offset for each level, from actual values that neither trained the quantiles nor chose among them.

    The promised coverage holds for new values that are exchangeable with `actual`. The steps of a single future are
    not exchangeable with each other, and count for less than their number.

    Shapes: actual [...]; quantiles [..., levels], in order.
    Units: distances of the learned quantile from the median.
    Raises: ValueError where there are too few values for the outermost level, or a distance of zero leaves no offset.
    """
    actual, quantiles = actual.reshape(-1), quantiles.reshape(-1, len(levels))
    middle = levels.index(0.5)
    median = quantiles[:, middle]
    offsets = []
    for index, level in enumerate(levels):
        if index == middle:
            offsets.append(0.0)
            continue
        side = 1.0 if index > middle else -1.0
        distance = np.maximum(side * (quantiles[:, index] - median), np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):  # an infinite score is a value beyond a distance of zero
            scores = side * (actual - median) / distance
        rank = math.ceil((len(scores) + 1) * max(level, 1 - level))
        if rank > len(scores):
            raise ValueError(f"level {level:g} cannot be calibrated on {len(scores)} values; bring {rank} or more")
        offset = float(np.partition(scores, rank - 1)[rank - 1]) - 1
        if not math.isfinite(offset):
            raise ValueError(f"level {level:g} lies on the median too often; no offset can move it")
        offsets.append(offset)
    return tuple(offsets)


def apply_offsets(quantiles: Tensor, offsets: Tensor, levels: Sequence[float]) -> Tensor:
    """Move each quantile by its offset times its distance from the median, outward in order.

    Shapes: quantiles [..., levels], in order; offsets [levels]; returns [..., levels].
    """
    middle = levels.index(0.5)
    median = quantiles[..., middle : middle + 1]
    moved = list((quantiles + offsets * (quantiles - median)).unbind(-1))
    for index in range(middle + 1, len(levels)):
        moved[index] = torch.maximum(moved[index], moved[index - 1])
    for index in range(middle - 1, -1, -1):
        moved[index] = torch.minimum(moved[index], moved[index + 1])
    return torch.stack(moved, -1)
