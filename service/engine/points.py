"""Drawing the next points of sessions: from the parameters of mixtures that their last steps made.

It knows numbers, not models and not requests. Invariant: what is drawn for a session depends on its own numbers alone,
whatever sessions are drawn for beside it, and a seed draws the same in every process.

Source: Graves 2013, arXiv 1308.0850, equations 18 to 25, and 61 and 62 for the bias. His end of stroke has the opposite
sign: here a higher logit makes it likelier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.errors import NotFinite
from service.model.onnx_session import Array

PenPoint = tuple[float, float, int]  # offset to the right, offset upwards, 1 where the stroke ends


@dataclass(frozen=True, slots=True)
class PointDraw:
    """A point to be drawn: by which four numbers from 0 to 1, and how much the likely is preferred.

    The first number chooses the component, the next two make a pair of normal numbers, the last says whether the stroke
    ends. At a `bias` of 0 all is as the model says; the higher it is, the smaller are the deviations, and the rarer the
    components of little weight.
    """

    numbers: tuple[float, float, float, float]
    bias: float = 0.0


@np.errstate(over="ignore", invalid="ignore")  # what that makes is refused
def draw_points(made: Array, draws: Sequence[PointDraw]) -> Array:
    """Return the point that is drawn for each session. Shapes: made [sessions, 6 * components + 1]; [sessions, 3].

    Raises: NotFinite where a session's parameters make no finite point.
    """
    raw = made.astype(np.float64)
    ends, parameters = raw[:, 0], raw[:, 1:].reshape(len(raw), 6, -1)
    by, one, other, last = np.array([each.numbers for each in draws]).T
    bias = np.array([each.bias for each in draws])
    chosen = _choose(parameters[:, 0] * (1 + bias)[:, None], by)
    right, up, over, along, turn = np.take_along_axis(parameters[:, 1:], chosen[:, None, None], axis=2)[:, :, 0].T
    distance, angle = np.sqrt(-2 * np.log1p(-one)), 2 * np.pi * other
    first, second = distance * np.cos(angle), distance * np.sin(angle)
    x = right + np.exp(over - bias) * first
    y = up + np.exp(along - bias) * (np.tanh(turn) * first + second / np.cosh(turn))  # 1 - tanh^2 = cosh^-2
    points: Array = np.stack([x, y, last * (1 + np.exp(-ends)) < 1], axis=1).astype(np.float32)
    if not (np.isfinite(points).all() and np.isfinite(raw).all()):
        raise NotFinite("no point can be drawn here: what the model made is not finite, or too wide")
    return points


def _choose(logits: Array, numbers: Array) -> Array:
    """Return the component that each number chooses. Shapes: logits [sessions, components]; returns [sessions]."""
    bounds = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
    bounds /= bounds[:, -1:]  # the last is 1, above all numbers
    chosen: Array = (bounds <= numbers[:, None]).sum(axis=1)
    return chosen
