"""How large gradients are by distance in time.

It knows states and losses, not how a reader is trained. Invariant: a row's gradient is that of its own loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional

from training.gradients.reader import Reader, States


def norms_by_distance(states: Sequence[States], losses: Tensor) -> Tensor:
    """Return how large the gradient of each row's own loss is with respect to its states k steps before the last.

    Everything that the network hands from step to step counts: h, and of an LSTM c besides.

    Shapes: states as `Reader.unroll` gives them; losses [rows]; returns [distances, rows], distance 0 first.
    """
    wanted = [state for step in states for state in step]
    gradients = torch.autograd.grad(losses.sum(), wanted, materialize_grads=True)
    kinds = len(states[0])
    by_step = [torch.cat(gradients[at : at + kinds], 2) for at in range(0, len(gradients), kinds)]
    norms: Tensor = torch.linalg.vector_norm(torch.cat(by_step[::-1]), dim=2)
    return norms


def shares_by_distance(reader: Reader, x: Tensor, first: Tensor) -> Tensor:
    """Return the gradient's norm by distance as shares of that at distance 0, the geometric mean over rows.

    Computed in float64, in which 1e-100 is still a number.

    Shapes: x [rows, time, features]; first [rows]; returns [time].
    """
    exact = deepcopy(reader).double()
    states = exact.unroll(x.double())
    losses = functional.cross_entropy(exact.answer(states[-1]), first, reduction="none")
    logs = norms_by_distance(states, losses).log()
    return (logs - logs[0]).mean(1).exp()
