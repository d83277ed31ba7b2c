"""The network whose gradients are looked at: one recurrent layer that reads symbols, and a head on its last state.

It knows the task's symbols, not how the network is trained. Invariant: a recurrent matrix begins as `radius` times an
orthogonal one, gate by gate, so that its spectral radius and all its singular values are `radius`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.nodes import Cell
from training.networks.recurrent import Recurrent

States = tuple[Tensor, ...]

HIDDEN = 32
SYMBOLS = 4  # to be remembered; as many others are noise
SKIP_STEPS, SKIP_SHARE = 10, 0.5


class Reader(nn.Module):
    """Say from the last state which symbol came first.

    `keep` is the bias of the gate that keeps the state: an LSTM's forget gate, a GRU's update gate; all other biases
    are zero. With `skip`, half of each state comes from the cell and half is the state of ten steps before.

    Source: the skip is the residual connection of He et al., CVPR 2016, over time as in Lin et al., Learning Long-Term
    Dependencies in NARX Recurrent Neural Networks, 1996.
    """

    def __init__(self, cell: Cell, radius: float, *, keep: float = 0.0, skip: bool = False) -> None:
        super().__init__()
        self.skip = skip
        self.stack = Recurrent(cell, 2 * SYMBOLS, HIDDEN)
        self.head = nn.Linear(HIDDEN, SYMBOLS)
        self._begin(radius, keep)

    def unroll(self, x: Tensor) -> list[States]:
        """Return the states after each step.

        Shapes: x [rows, time, 2 * SYMBOLS]; returned states each [1, rows, hidden].
        """
        ones = torch.ones(len(x), dtype=torch.int32)
        states = [self.stack.zero_states(len(x))]
        for step in torch.split(x, 1, 1):
            _, new = self.stack(step, ones, states[-1])
            if self.skip:
                before = states[max(len(states) - SKIP_STEPS, 0)]
                new = tuple(torch.lerp(now, old, SKIP_SHARE) for now, old in zip(new, before, strict=True))
            states.append(new)
        return states[1:]

    def answer(self, states: States) -> Tensor:
        """Score every symbol. Shapes: returns [rows, SYMBOLS]."""
        scores: Tensor = self.head(states[0][0])
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Score every symbol after the last step. Shapes: x [rows, time, 2 * SYMBOLS]; returns [rows, SYMBOLS]."""
        if self.skip:
            return self.answer(self.unroll(x)[-1])
        _, states = self.stack(x, torch.full((len(x),), x.shape[1], dtype=torch.int32))
        return self.answer(states)

    def _begin(self, radius: float, keep: float) -> None:
        kept = slice(HIDDEN, 2 * HIDDEN)  # PyTorch's gates are i, f, g, o and r, z, n
        with torch.no_grad():
            for name, parameter in self.stack.named_parameters():
                if "weight_hh" in name:
                    for matrix in torch.split(parameter, HIDDEN):
                        nn.init.orthogonal_(matrix, radius)
                elif "bias" in name:
                    nn.init.zeros_(parameter)
                    if "bias_ih" in name and self.stack.cell != "rnn":
                        parameter[kept] = keep
