"""A penalty on large states, for training that carries state from one chunk of a long sequence to the next.

It knows states as tensors, not networks, tasks or data. Invariant: a state within `STATE_LIMIT` costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

STATE_LIMIT = 5.0  # tanh(5) is within 1e-4 of 1: a larger cell says no more
PENALTY_WEIGHT = 0.01


def state_penalty(states: tuple[Tensor, ...]) -> Tensor:
    """Return the mean squared excess of the states over `STATE_LIMIT`.

    Without this penalty single cells grow without bound, and float32 becomes too coarse for the parity suite.

    Shapes: states each [directions, rows, hidden].
    """
    return torch.cat(states, 2).abs().sub(STATE_LIMIT).clamp(min=0).square().mean()
