"""What is measured for docs/recurrent-networks.md, and the raw numbers that it leaves.

It knows readers, their task and their gradients, not pictures or pages. Invariant: the same seeds give the same numbers
on the same machine.
"""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from training.gradients.norms import shares_by_distance
from training.gradients.reader import Reader
from training.gradients.recall import ROWS, accuracy, draw, train
from training.networks.nodes import Cell

Method = Literal["descent", "adam"]

CELLS: tuple[Cell, ...] = ("rnn", "lstm", "gru")
RADII = (0.5, 1.0, 1.5)
OPEN = 3.0  # the bias of a gate that keeps sigmoid(3) = 95 % of the state
LEARNING_RATES: dict[Method, float] = {"descent": 0.1, "adam": 3e-3}
MAX_NORM = 1.0
POINT = 10  # updates that are one point of a curve
HELD_OUT_SEED = 1_000_000


class Sizes(BaseModel):
    """How much is measured.

    Units: `distance` steps back before training; `steps` of the rows in training; `updates` of a training, a multiple
    of ten; `held_out` rows that are answered after it.
    """

    model_config = ConfigDict(frozen=True)

    seeds: tuple[int, ...] = (0, 1, 2)
    distance: int = 100
    steps: int = 30
    updates: int = 300
    held_out: int = 512


class Network(BaseModel):
    """The options of a reader."""

    model_config = ConfigDict(frozen=True)

    cell: Cell
    radius: float
    keep: float = 0.0
    skip: bool = False

    def build(self, seed: int) -> Reader:
        """Return the network as it begins."""
        torch.manual_seed(seed)
        return Reader(self.cell, self.radius, keep=self.keep, skip=self.skip)


class Start(BaseModel):
    """A network before training.

    `shares` are the gradient's norms by distance as shares of that at distance 0, the geometric mean over the seeds.
    """

    network: Network
    shares: list[float]


class Training(BaseModel):
    """A network in training.

    `losses` and `norms` are the mean loss and the largest gradient norm, before clipping, of each ten updates, `before`
    and `after` the shares by distance, all of the first seed. `accuracies` and `largest_norms` are by seed.
    """

    network: Network
    method: Method
    clipped: bool
    losses: list[float]
    norms: list[float]
    before: list[float]
    after: list[float]
    accuracies: list[float]
    largest_norms: list[float]


class Study(BaseModel):
    """Everything that was measured."""

    torch: str
    sizes: Sizes
    starts: list[Start]
    trainings: list[Training]


def measure(sizes: Sizes) -> Study:
    """Measure every network before and in training.

    Plain gradient descent shows what clipping does, for its steps are as large as the gradient. Adam divides by the
    gradient's size: it shows what can be learned at all.
    """
    scaled = [Network(cell=cell, radius=radius) for cell in CELLS for radius in RADII]
    opened = [network.model_copy(update={"keep": OPEN}) for network in scaled if network.cell != "rnn"]
    skipping = [network.model_copy(update={"skip": True}) for network in scaled]
    exploding = [network for network in scaled if network.cell == "rnn"] + opened
    half_open = [Network(cell=cell, radius=1.0, keep=1.0) for cell in CELLS[1:]]
    return Study(
        torch=torch.__version__,
        sizes=sizes,
        starts=[_start(sizes, network) for network in scaled + half_open + opened + skipping],
        trainings=[
            *(_training(sizes, network, "descent", clipped) for network in exploding for clipped in (False, True)),
            *(_training(sizes, network, "adam", True) for network in scaled + opened + skipping),
        ],
    )


def _start(sizes: Sizes, network: Network) -> Start:
    shares = torch.stack([_shares(network.build(seed), sizes.distance + 1, seed) for seed in sizes.seeds])
    return Start(network=network, shares=_numbers(shares.log().mean(0).exp()))


def _training(sizes: Sizes, network: Network, method: Method, clipped: bool) -> Training:
    readers = [network.build(seed) for seed in sizes.seeds]
    before = _shares(readers[0], sizes.steps, sizes.seeds[0])
    rate, max_norm = LEARNING_RATES[method], MAX_NORM if clipped else inf
    optimizer = torch.optim.Adam if method == "adam" else torch.optim.SGD
    courses = torch.tensor(
        [
            train(
                reader,
                optimizer(reader.parameters(), rate),
                steps=sizes.steps,
                updates=sizes.updates,
                seed=seed,
                max_norm=max_norm,
            )
            for seed, reader in zip(sizes.seeds, readers, strict=True)
        ]
    )  # [seeds, updates, loss and norm]
    losses, norms = courses[0].T.reshape(2, -1, POINT)
    held_out = draw(sizes.held_out, sizes.steps, torch.Generator().manual_seed(HELD_OUT_SEED))
    return Training(
        network=network,
        method=method,
        clipped=clipped,
        losses=_numbers(losses.mean(1)),
        norms=_numbers(norms.amax(1)),
        before=_numbers(before),
        after=_numbers(_shares(readers[0], sizes.steps, sizes.seeds[0])),
        accuracies=_numbers(torch.tensor([accuracy(reader, *held_out) for reader in readers])),
        largest_norms=_numbers(courses[:, :, 1].amax(1)),
    )


def _shares(reader: Reader, steps: int, seed: int) -> Tensor:
    return shares_by_distance(reader, *draw(ROWS, steps, torch.Generator().manual_seed(seed)))


def _numbers(values: Tensor) -> list[float]:
    """Return numbers with as many digits as a person reads."""
    return [float(f"{value:.4g}") for value in values.tolist()]
