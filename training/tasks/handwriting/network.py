"""The handwriting network: the text to be written, and the pen's point so far, in; the density of its next point out.

A stack of LSTM layers with peepholes. Every layer reads the point and what a window shows of the text, every layer but
the first the layer below, and the head all of them. The first layer moves the window, which only goes forward, and
reads what it shows at the next step: so the graph takes one step a run. It takes points, and gives densities, in
millimetres; inside it computes in a unit of its own.

It knows ids and points, not texts, data or training. Invariant: k steps in one call equal k calls of one step, and what
stands beyond a text's length, and which rows share the batch, changes nothing.

Source: Graves, Generating Sequences with Recurrent Neural Networks, arXiv 1308.0850, section 5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from service.contract.tensors import Shape, State
from training.networks.recurrent import Recurrent
from training.tasks.handwriting.mixture import bounded, measured, parameters

POINT = 3  # offset to the right, offset upwards, end of stroke
CHARACTERS_A_POINT = 0.08  # how far the untrained window goes


class Alphabet(nn.Module):
    """Show a text as the window sees it: each character by a place of its own, any other by none."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.characters = characters

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: ids [batch, time] of any integer type; lengths [batch] int32; returns [batch, time, characters]."""
        return (ids.unsqueeze(2) == torch.arange(self.characters, device=ids.device)).float()


class Window(nn.Module):
    """Look at a few neighbouring characters of the text: a mixture of Gaussians over their places."""

    def __init__(self, hidden: int, gaussians: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, 3 * gaussians)  # heights, sharpness, steps, all as logarithms
        with torch.no_grad():
            self.linear.bias[2 * gaussians :] = math.log(CHARACTERS_A_POINT)

    def forward(self, h: Tensor, places: Tensor, memory: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Move on, and return what is seen and the new places.

        Shapes: h [batch, hidden]; places [batch, gaussians]; memory [batch, memory, characters]; lengths, of the texts,
        [batch]; what is seen [batch, characters].
        """
        heights, sharpness, steps = self.linear(h).float().exp().chunk(3, 1)
        places = places + steps
        at = torch.arange(memory.shape[1], device=h.device)
        away = places.unsqueeze(2) - at
        weights = (heights.unsqueeze(2) * torch.exp(-sharpness.unsqueeze(2) * away.square())).sum(1)
        weights = weights * (at < lengths.unsqueeze(1))
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), places


class HandwritingNetwork(nn.Module):
    """Predict the pen's next point. Ids from 0 are characters; the id after them is any other, and shows nothing."""

    def __init__(
        self, characters: int, unit: float, hidden: int, layers: int, gaussians: int, components: int, dropout: float
    ) -> None:
        """`unit` in millimetres; `dropout` acts on what each layer gives to the layers above it and to the head."""
        super().__init__()
        self.unit = unit
        self.characters, self.hidden, self.gaussians, self.components = characters, hidden, gaussians, components
        read = POINT + characters
        self.layers = nn.ModuleList(
            Recurrent("lstm", read + (hidden if number else 0), hidden, peepholes=True) for number in range(layers)
        )
        self.alphabet = Alphabet(characters)
        self.window = Window(hidden, gaussians)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(layers * hidden, parameters(components) + 1)

    @property
    def states(self) -> tuple[State, ...]:
        """What goes from step to step in the order of `forward`, as a manifest declares it."""
        names = [f"{kind}{layer}" for layer in range(len(self.layers)) for kind in "hc"]
        shapes: dict[str, Shape] = dict.fromkeys(names, (1, "batch", self.hidden))
        shapes |= {"seen": ("batch", self.characters), "places": ("batch", self.gaussians)}
        return tuple(
            State(input=name, output=f"{name}_out", dtype="float32", shape=shape) for name, shape in shapes.items()
        )

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states before the first point, in the order of `states`."""
        layers = [(1, batch, self.hidden)] * 2 * len(self.layers)
        sizes = (*layers, (batch, self.characters), (batch, self.gaussians))
        return tuple(self.head.weight.new_zeros(size) for size in sizes)

    def read(
        self, points: Tensor, lengths: Tensor, memory: Tensor, memory_lengths: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the raw parameters of the point after each one, the logit that none comes, and the states.

        Units: points and parameters in the network's own.

        Shapes: as `forward`, but states without the memory; parameters [batch, time, 6 * components + 1]; logits
        [batch, time].
        """
        *carried, seen, places = states
        h, c = carried[:2]
        single, shown, below = torch.ones_like(lengths), [], []
        for point in torch.split(points, 1, 1):
            y, (h, c) = self.layers[0](torch.cat([point, seen.unsqueeze(1)], 2), single, (h, c))
            seen, places = self.window(y[:, 0], places, memory, memory_lengths)
            shown.append(seen)
            below.append(y)
        outputs, finals = [torch.cat(below, 1)], [h, c]
        given = torch.cat([points, torch.stack(shown, 1)], 2)
        for number, layer in enumerate(self.layers[1:], 1):
            both = torch.cat([given, self.dropout(outputs[-1])], 2)
            y, final = layer(both, lengths, tuple(carried[2 * number : 2 * number + 2]))
            outputs.append(y)
            finals += final
        with torch.autocast(points.device.type, enabled=False):  # bfloat16 is coarser than the least deviation
            raw = self.head(self.dropout(torch.cat(outputs, 2).float()))
        return bounded(raw[..., :-1]), raw[..., -1], (*finals, seen, places)

    def forward(self, points: Tensor, lengths: Tensor, memory_lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Take the steps of the points; return the raw parameters of the point after the last one, the chance that none
        comes, then the states but the memory.

        Shapes: points [batch, time, 3], one in the graph; lengths, all the same, and memory_lengths [batch] int32;
        states as `states`, then the memory [batch, memory, characters]; parameters [batch, 6 * components + 1]; chances
        [batch, 1]. Units: points and parameters in millimetres.
        """
        *carried, memory = states
        own = points / torch.tensor([self.unit, self.unit, 1.0])
        raw, last, after = self.read(own, lengths, memory, memory_lengths, tuple(carried))
        return measured(raw[:, -1], self.unit), last[:, -1:].sigmoid(), *after
