"""The task that needs memory: say at the end which symbol came first, with noise in between; and its training.

It knows a reader's answers, not its cell. The loss depends on the first step alone, so what is learned of it must come
back through the whole row. Invariant: the same seed draws the same rows.

Source: after Bengio, Simard and Frasconi, Learning Long-Term Dependencies with Gradient Descent is Difficult, 1994.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.gradients.reader import SYMBOLS, Reader

ROWS = 32  # of a batch


def draw(rows: int, steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw rows of one-hot symbols: the first is to be remembered, the others are noise of another alphabet.

    Shapes: returns x [rows, steps, 2 * SYMBOLS] float32, and the first symbols [rows].
    """
    read = torch.randint(SYMBOLS, 2 * SYMBOLS, (rows, steps), generator=generator)
    read[:, 0] = torch.randint(SYMBOLS, (rows,), generator=generator)
    return functional.one_hot(read, 2 * SYMBOLS).float(), read[:, 0]


def update(
    reader: Reader, optimizer: torch.optim.Optimizer, x: Tensor, first: Tensor, max_norm: float
) -> tuple[float, float]:
    """Take one step down the gradient, clipped to `max_norm`; return the loss in nats and the norm before clipping."""
    loss = functional.cross_entropy(reader(x), first)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(reader.parameters(), max_norm)
    optimizer.step()
    return loss.item(), norm.item()


def train(
    reader: Reader,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    updates: int,
    seed: int,
    max_norm: float = inf,
) -> list[tuple[float, float]]:
    """Train on new rows of `steps` steps in every update; return what each one saw, as `update` does."""
    generator = torch.Generator().manual_seed(seed)
    return [update(reader, optimizer, *draw(ROWS, steps, generator), max_norm) for _ in range(updates)]


def accuracy(reader: Reader, x: Tensor, first: Tensor) -> float:
    """Return the share of the rows that are answered right."""
    with torch.no_grad():
        return float((reader(x).argmax(1) == first).float().mean())
