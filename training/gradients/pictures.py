"""The plots of docs/recurrent-networks.md, from the raw numbers of a study.

It knows matplotlib and what a plot should say, not networks. Invariant: nothing is drawn that was not measured, but for
the closed forms, which are dotted.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.gradients.reader import SKIP_SHARE, SKIP_STEPS
from training.gradients.study import CELLS, OPEN, POINT, RADII, Network, Start, Study, Training
from training.networks.nodes import Cell
from training.report.plots import FLOOR, MODEL, ROW_INCHES, TRUTH, WIDTH_INCHES

NAMES: dict[Cell, str] = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
SMALL, LARGE = RADII[0], RADII[-1]
COLORS = (MODEL, TRUTH, "tab:red")
LOWEST, HIGHEST = 1e-12, 1e4
PANEL_INCHES = 1.2 * ROW_INCHES


def draw_pictures(study: Study) -> dict[str, Figure]:
    """Return every plot by the name of its file, without suffix."""
    return {
        "before-training": draw_radii(study.starts),
        "remedies": draw_remedies(study.starts),
        "clipping": draw_clipping(study.trainings),
        "after-training": draw_learned(study.trainings),
    }


def draw_radii(starts: Iterable[Start]) -> Figure:
    """Draw the gradient by distance for each cell and radius, beside radius to the power of the distance."""
    by_network = {start.network: start.shares for start in starts}
    figure, panels = _panels()
    for axes, cell in zip(panels, CELLS, strict=True):
        for radius, color in zip(RADII, COLORS, strict=True):
            shares = by_network[Network(cell=cell, radius=radius)]
            axes.plot(shares, color=color, label=f"spectral radius {radius}")
            _dotted(axes, radius, len(shares), color)
        axes.set_title(NAMES[cell])
    panels[0].legend(fontsize="small")
    return figure


def draw_remedies(starts: Iterable[Start]) -> Figure:
    """Draw what the bias of the gate that keeps does to the LSTM and the GRU, and a skip to all cells."""
    by_network = {start.network: start.shares for start in starts}
    figure, panels = _panels()
    for axes, cell in zip(panels, CELLS[1:], strict=False):
        for keep, color in zip((0.0, 1.0, OPEN), COLORS, strict=True):
            shares = by_network[Network(cell=cell, radius=1.0, keep=keep)]
            axes.plot(shares, color=color, label=f"bias {keep:.0f}")
            _dotted(axes, 1 / (1 + exp(-keep)), len(shares), color)
        axes.set_title(f"{NAMES[cell]}: the gate that keeps")
        axes.legend(fontsize="small", loc="lower left")
    for cell, color in zip(CELLS, COLORS, strict=True):
        network = Network(cell=cell, radius=SMALL)
        panels[2].plot(by_network[network.model_copy(update={"skip": True})], color=color, label=NAMES[cell])
        panels[2].plot(by_network[network], "--", color=color, linewidth=1)
    _dotted(panels[2], SKIP_SHARE ** (1 / SKIP_STEPS), len(by_network[network]), FLOOR)
    panels[2].set_title("with a skip; dashed: without")
    panels[2].legend(fontsize="small", loc="upper right")
    return figure


def draw_clipping(trainings: Iterable[Training]) -> Figure:
    """Draw loss and gradient norm over plain gradient descent at the large radius, clipped and not."""
    size = (WIDTH_INCHES, 2 * ROW_INCHES)
    figure, panels = plt.subplots(2, len(CELLS), figsize=size, sharex=True, sharey="row", squeeze=False)
    for training in trainings:
        if training.method == "descent" and training.network.radius == LARGE:
            column = CELLS.index(training.network.cell)
            color, label = (MODEL, "clipped") if training.clipped else (FLOOR, "not clipped")
            updates = POINT * np.arange(1, len(training.losses) + 1)
            panels[0, column].plot(updates, training.losses, color=color, label=label)
            panels[1, column].semilogy(updates, training.norms, color=color)
            panels[0, column].set_title(NAMES[training.network.cell])
    panels[0, 0].legend(fontsize="small")
    panels[0, 0].set_ylabel("loss, nats")
    panels[1, 0].set_ylabel("largest norm")
    for axes in panels[1]:
        axes.axhline(1, color="gray", linestyle=":", linewidth=1)
        axes.set_xlabel("updates")
    return figure


def draw_learned(trainings: Iterable[Training]) -> Figure:
    """Draw the gradient by distance before and after training by Adam, at the small radius."""
    figure, panels = _panels()
    remedies = {
        (0.0, False): (MODEL, "none"),
        (0.0, True): (TRUTH, "skip"),
        (OPEN, False): ("tab:red", "open gate"),
    }
    for training in trainings:
        network = training.network
        if training.method == "adam" and network.radius == SMALL:
            axes = panels[CELLS.index(network.cell)]
            color, label = remedies[network.keep, network.skip]
            axes.plot(training.after, color=color, label=label)
            axes.plot(training.before, "--", color=color, linewidth=1)
            axes.set_title(NAMES[network.cell])
    panels[1].legend(fontsize="small", loc="lower left")
    return figure


def _panels() -> tuple[Figure, list[Axes]]:
    figure, panels = plt.subplots(1, len(CELLS), figsize=(WIDTH_INCHES, PANEL_INCHES), sharey=True, squeeze=False)
    panels[0, 0].set(yscale="log", ylim=(LOWEST, HIGHEST), ylabel="share of the gradient's norm")
    for axes in panels[0]:
        axes.set_xlabel("steps back")
    return figure, list(panels[0])


def _dotted(axes: Axes, base: float, distances: int, color: str) -> None:
    axes.plot(base ** np.arange(distances), ":", color=color, linewidth=1)
