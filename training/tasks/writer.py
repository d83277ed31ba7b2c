"""What models that write tokens share in training: teacher forcing, smoothed labels, a running mean of the weights.

It knows batches of what is read, what is written and what follows, and Lightning; not texts or networks.
Invariant: the loss is a mean over tokens that are known, and the one that chooses the checkpoint is without smoothing.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from training.fit.modules import SeededModule
from training.recipe import Section

WARM_UP = 0.15  # of the run, to the highest learning rate
NO_TARGET = -100  # PyTorch's cross entropy leaves it out
FIGURES = ("dev_loss",)

Batch = tuple[Tensor, Tensor, Tensor]  # what is read, the tokens of each row, and those that follow them


class WriterSettings(Section):
    """What recipes of models that write set beside the network.

    Units: `learning_rate` the highest of the one-cycle schedule; `averaging` per step.
    """

    dropout: float = Field(ge=0, lt=1)
    smoothing: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    averaging: float = Field(ge=0, lt=1)


class WriterModule(SeededModule):
    """Train `network(read, tokens)`, which scores the tokens that follow, by AdamW and a one-cycle rate."""

    settings: WriterSettings
    network: torch.nn.Module

    def configure_callbacks(self) -> list[Callback]:
        return self.running_mean(self.settings.averaging)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self._loss(batch, self.settings.smoothing)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        written = int((batch[2] != NO_TARGET).sum())
        self.log("dev_loss", self._loss(batch, 0.0), prog_bar=True, batch_size=written)

    def _loss(self, batch: Batch, smoothing: float) -> Tensor:
        """Return the mean nats per token that is known."""
        read, tokens, following = batch
        scores = self.network(read, tokens).flatten(0, 1)
        return functional.cross_entropy(scores.float(), following.flatten(), label_smoothing=smoothing)

    def configure_optimizers(self) -> Any:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        return self.one_cycle(rate, weight_decay=decay, warm_up=WARM_UP)
