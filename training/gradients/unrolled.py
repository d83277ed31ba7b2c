"""The configurations of recurrent networks, drawn unrolled in time: inputs below, cells, outputs above.

It knows matplotlib, not networks. Invariant: a solid arrow is a value within a run; a dashed one comes back in with the
next: an output as an input, or a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from training.report.plots import FLOOR, MODEL

STEP_INCHES = 0.7
BEND = 0.35

Place = tuple[int, int]  # step, row; inputs are row 0


@dataclass(frozen=True)
class Unrolled:
    """A network over time: a label for each step that reads or answers, none for one that does not.

    `layers` are directions from the lowest layer up; a reverse one stands beside the one below it, not on it.
    `fed_back`: the outputs that are the next step's input. `second`: the first step of the decoder. `handed_on`: the
    last step of a request, whose state goes into the next.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...] = ("forward",)
    fed_back: tuple[int, ...] = ()
    second: int | None = None
    handed_on: int | None = None

    @property
    def top(self) -> int:
        """The row of the outputs."""
        return len(self.layers) + 1


X, Y, NONE = ("x₁", "x₂", "x₃", "x₄"), ("y₁", "y₂", "y₃", "y₄"), ("",) * 4
CONFIGURATIONS = {
    "one-to-one": Unrolled(("x",), ("y",)),
    "one-to-many": Unrolled(("x", *Y[:3]), Y, fed_back=(0, 1, 2)),
    "many-to-one": Unrolled(X, (*NONE[1:], "y")),
    "many-to-many": Unrolled(X, Y),
    "encoder-decoder": Unrolled((*X[:3], "start", *Y[:2]), (*NONE[1:], *Y[:3]), fed_back=(3, 4), second=3),
    "bidirectional": Unrolled(X, Y, layers=("forward", "reverse")),
    "stacked": Unrolled(X, Y, layers=("forward", "forward")),
    "streaming": Unrolled(X, Y, handed_on=1),
}


def draw_configurations() -> dict[str, Figure]:
    """Return every drawing by the name of its file, without suffix."""
    return {name: draw_unrolled(network) for name, network in CONFIGURATIONS.items()}


def draw_unrolled(network: Unrolled) -> Figure:
    """Draw one configuration."""
    steps, rows = len(network.inputs), network.top + 1
    figure, axes = plt.subplots(figsize=(STEP_INCHES * steps, STEP_INCHES * rows))
    axes.set(xlim=(-0.5, steps - 0.5), ylim=(-0.5, rows - 0.5))
    axes.set_axis_off()
    for step in range(steps):
        second = network.second is not None and step >= network.second
        cells = ["h"] * len(network.layers)
        for row, label in enumerate((network.inputs[step], *cells, network.outputs[step])):
            color = "whitesmoke" if row in (0, network.top) else FLOOR if second else MODEL
            box = {"facecolor": color, "edgecolor": "gray", "boxstyle": "round,pad=0.4", "alpha": 0.6}
            if label:
                axes.text(step, row, label, ha="center", va="center", bbox=box)
    for start, end, dashed, bend in (*_upward(network), *_along(network)):
        style = {"arrowstyle": "->", "shrinkA": 12, "shrinkB": 12, "connectionstyle": f"arc3,rad={bend}"}
        axes.annotate("", end, start, arrowprops={**style, "linestyle": "--" if dashed else "-"})
    if network.handed_on is not None:
        axes.text(network.handed_on + 0.5, 1.15, "token", ha="center", fontsize="small")
    return figure


def _upward(network: Unrolled) -> Iterator[tuple[Place, Place, bool, float]]:
    """Yield the arrows within a step, and those from an output to the next input."""
    beside = "reverse" in network.layers
    for step, (read, answered) in enumerate(zip(network.inputs, network.outputs, strict=True)):
        if read:
            yield (step, 0), (step, 1), False, 0
        for row in range(2, network.top):
            yield ((step, 0), (step, row), False, BEND) if beside else ((step, row - 1), (step, row), False, 0)
        if answered:
            yield (step, network.top - 1), (step, network.top), False, 0
            if beside:
                yield (step, 1), (step, network.top), False, -BEND
    for step in network.fed_back:
        yield (step, network.top), (step + 1, 0), True, 0


def _along(network: Unrolled) -> Iterator[tuple[Place, Place, bool, float]]:
    """Yield the arrows of the states from step to step."""
    for row, direction in enumerate(network.layers, start=1):
        for step in range(len(network.inputs) - 1):
            ends = (step, row), (step + 1, row)
            start, end = ends if direction == "forward" else ends[::-1]
            yield start, end, step == network.handed_on, 0
