"""The density over a pen's next point: a mixture of bivariate Gaussians, and whether the stroke ends.

It knows parameters as a row of numbers, not networks or texts. Raw parameters stand in Graves' order: the end of the
stroke (logit), then for all components weights (logits), means right, means up, logarithms of both deviations,
correlations before the hyperbolic tangent.

Source: Graves, Generating Sequences with Recurrent Neural Networks, arXiv 1308.0850, equations 16 to 26.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MIN_LOG_DEVIATION = -3.5  # about a thousandth of an inch: below that a density would fit the tablet's grid
MAX_CORRELATION = 3.0  # before the tangent


def parameters(components: int) -> int:
    """Return how many raw parameters a point has."""
    return 6 * components + 1


def bounded(raw: Tensor) -> Tensor:
    """Keep densities finite: bound deviations from below and correlations. Shapes: raw [..., parameters]."""
    end, weights, right, up, over, along, turn = _split(raw)
    over, along = over.clamp(min=MIN_LOG_DEVIATION), along.clamp(min=MIN_LOG_DEVIATION)
    turn = turn.clamp(-MAX_CORRELATION, MAX_CORRELATION)
    return torch.cat([end, weights, right, up, over, along, turn], -1)


def nats(raw: Tensor, points: Tensor) -> Tensor:
    """Return the negative logarithm of the density of each point. Shapes: raw [n, parameters]; points [n, 3]."""
    end, weights, right, up, over, along, turn = _split(raw)
    x, y = (points[:, :1] - right) * torch.exp(-over), (points[:, 1:2] - up) * torch.exp(-along)
    cosh = torch.logaddexp(turn, -turn) - math.log(2)  # its logarithm; 1 - tanh^2 = cosh^-2
    distance = (x.square() + y.square() - 2 * torch.tanh(turn) * x * y) * torch.exp(2 * cosh)
    densities = cosh - distance / 2 - over - along - math.log(2 * math.pi)
    moved = torch.logsumexp(functional.log_softmax(weights, -1) + densities, -1)
    return functional.binary_cross_entropy_with_logits(end[:, 0], points[:, 2], reduction="none") - moved


def measured(raw: Tensor, unit: float) -> Tensor:
    """Return the parameters of the same density where points are `unit` times as large. Shapes: as `bounded`."""
    end, weights, right, up, over, along, turn = _split(raw)
    wider = math.log(unit)
    return torch.cat([end, weights, right * unit, up * unit, over + wider, along + wider, turn], -1)


def _split(raw: Tensor) -> tuple[Tensor, ...]:
    components = (raw.shape[-1] - 1) // 6
    return torch.split(raw, [1] + [components] * 6, -1)
