"""The handwriting model's training: whole words at once, those of like length together, by the density of each point.

It knows words, the network and Lightning, not files or publishing. The figure that chooses the checkpoint is of points
alone: whether a word ends counts in training, not in it. Invariant: validation has no word of a writer trained on, and
its figure is a mean over points, whatever batches they come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from training.fit.modules import SeededModule
from training.fit.state_penalty import state_penalty
from training.recipe import Section
from training.tasks.handwriting.data import Word
from training.tasks.handwriting.mixture import nats
from training.tasks.handwriting.network import HandwritingNetwork
from training.tasks.handwriting.paper import Batch, Paper

WARM_UP = 0.15  # of the run, to the highest learning rate
VALIDATED_ROWS = 128
ENDS_WEIGHT = 1.0
STATE_WEIGHT = 0.3  # of the penalty on large states, which float32 is too coarse for

FIGURES = ("val_nats", "val_end_nats")


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `hidden` of each of the `layers`; `gaussians` of the window; `components` of the mixture; `rows` per batch;
    `learning_rate` the highest of the one-cycle schedule.
    """

    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    gaussians: int = Field(ge=1)
    components: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class HandwritingModule(SeededModule):
    """Train a `HandwritingNetwork` by AdamW and a one-cycle rate."""

    def __init__(self, settings: Settings, train: Sequence[Word], validation: Sequence[Word], seed: int) -> None:
        super().__init__(seed)
        self.settings, self.train_part, self.validation_part = settings, train, validation
        self.paper = Paper.of(train)
        self.network = HandwritingNetwork(
            len(self.paper.characters),
            self.paper.scale,
            settings.hidden,
            settings.layers,
            settings.gaussians,
            settings.components,
            settings.dropout,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        batches = self.paper.batches(self.train_part, self.settings.rows, shuffle)
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        batches = self.paper.batches(self.validation_part, VALIDATED_ROWS)
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        points, ends, states = self.losses(batch)
        self.log("train_nats", points.mean(), prog_bar=True, batch_size=len(points))
        return points.mean() + ENDS_WEIGHT * ends.mean() + STATE_WEIGHT * state_penalty(states)

    def validation_step(self, batch: Batch, index: int) -> None:
        points, ends, _ = self.losses(batch)
        self.log_dict({"val_nats": points.mean(), "val_end_nats": ends.mean()}, prog_bar=True, batch_size=len(points))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the nats of each point of the batch, those of whether another one comes, and the layers' states.

        Shapes: [all rows' points]; one more of each row; states each [1, rows, hidden].
        """
        points, counts, ids, lengths = batch
        network = self.network
        read = functional.pad(points, (0, 0, 1, 0))  # from the origin, where no stroke ends, to the last point
        full = torch.full_like(counts, read.shape[1])
        fresh = network.zero_states(len(points))
        raw, last, states = network.read(read, full, network.alphabet(ids, lengths), lengths, fresh)
        left = counts.unsqueeze(1) - torch.arange(read.shape[1], device=points.device)
        there, come = left >= 0, left[:, :-1] > 0
        target = (left[there] == 0).float()
        ends = functional.binary_cross_entropy_with_logits(last[there], target, reduction="none")
        return nats(raw[:, :-1][come], points[come]), ends, states[: 2 * len(network.layers)]

    def configure_optimizers(self) -> Any:
        return self.one_cycle(self.settings.learning_rate, weight_decay=self.settings.weight_decay, warm_up=WARM_UP)
