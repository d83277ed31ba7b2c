"""The levels that the forecasters predict, quantiles that never cross, and the loss that they are trained by.

It knows tensors, not networks or series. Invariant: `rising` gives quantiles in the order of their levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Deciles, and the bounds of the central 90 % and 95 % intervals.
LEVELS: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
MEDIAN = LEVELS.index(0.5)


def rising(raw: Tensor) -> Tensor:
    """Make free numbers into quantiles that never cross: the median, and positive steps away from it.

    Shapes: raw [..., levels], as many levels below the median as above it; returns the same.
    """
    middle = raw.shape[-1] // 2
    median = raw[..., middle : middle + 1]
    below, above = functional.softplus(raw[..., :middle]), functional.softplus(raw[..., middle + 1 :])
    below = below.flip(-1).cumsum(-1).flip(-1)
    return torch.cat([median - below, median, median + above.cumsum(-1)], -1)


def pinball_loss(actual: Tensor, quantiles: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Average the pinball loss over the levels; `series.metrics.pinball` for tensors.

    Shapes: actual [...]; quantiles [..., levels]; returns [...].
    """
    level = torch.tensor(levels, device=actual.device)
    error = actual[..., None] - quantiles
    return torch.maximum(level * error, (level - 1) * error).mean(-1)
