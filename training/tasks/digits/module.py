"""The digit models' training: recordings as others would sound, cross entropy, and what chooses the checkpoint.

It knows recordings and the networks, not files or publishing. A live network learns most from the last frame, where
the answer is due, and a little from the later half of a recording, where it can be guessed.

Invariant: what is trained on and what chooses the checkpoint share no recording.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from training.fit.modules import SeededModule
from training.fit.state_penalty import PENALTY_WEIGHT, state_penalty
from training.recipe import Section
from training.tasks.digits.network import DigitNetwork, LiveDigitNetwork
from training.tasks.digits.recordings import Batch, Recordings
from training.tasks.digits.voices import Disguise

FIGURES = ("val_loss", "val_accuracy")
WARM_UP = 0.15  # of the run, to the highest learning rate
GUESS_WEIGHT = 0.3  # of the later half's frames beside the last frame
VALIDATION_ROWS = 64


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `channels` patterns of the first convolution; `colour` the spread of a microphone's cosines, `stripe` bands
    or frames that are hidden at most; `speed` the largest change of it; `rows` per batch; `learning_rate` the highest
    of the one-cycle schedule.
    """

    network: Literal["whole", "live"]
    channels: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    colour: float = Field(ge=0)
    stripe: int = Field(ge=0)
    speed: float = Field(ge=0, lt=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)

    def make(self) -> DigitNetwork | LiveDigitNetwork:
        """Return an untrained network."""
        kind = LiveDigitNetwork if self.network == "live" else DigitNetwork
        return kind(self.channels, self.hidden, self.layers, self.dropout, Disguise(self.colour, self.stripe))


class DigitModule(SeededModule):
    """Train a digit network."""

    def __init__(self, settings: Settings, train: Recordings, held_out: Recordings, seed: int) -> None:
        super().__init__(seed)
        self.settings, self.train_recordings, self.held_out = settings, train, held_out
        self.network = settings.make()

    def train_dataloader(self) -> DataLoader[Batch]:
        batches = self.train_recordings.varied(self.settings.rows, self.settings.speed, self.epoch_seed)
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.held_out.batches(VALIDATION_ROWS), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        frames, lengths, digits = batch
        if isinstance(self.network, DigitNetwork):
            loss = penalised = functional.cross_entropy(self.network.logits(frames, lengths).float(), digits)
        else:
            scores, (_, *carried) = self.network.logits(frames, lengths, *self.network.zero_states(len(frames)))
            loss = functional.cross_entropy(scores[:, -1].float(), digits)
            later = scores[:, scores.shape[1] // 2 :].float()
            guessed = functional.cross_entropy(later.transpose(1, 2), digits[:, None].expand(-1, later.shape[1]))
            penalised = loss + GUESS_WEIGHT * guessed + PENALTY_WEIGHT * state_penalty(tuple(carried))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(frames))
        return penalised

    def validation_step(self, batch: Batch, index: int) -> None:
        frames, lengths, digits = batch
        scores = self.scores(frames, lengths)
        figures = {
            "val_loss": functional.cross_entropy(scores, digits),
            "val_accuracy": (scores.argmax(1) == digits).float().mean(),
        }
        self.log_dict(figures, prog_bar=True, batch_size=len(frames))

    def scores(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores after the last frame of each row. Shapes: as a batch; returns [batch, digits]."""
        if isinstance(self.network, DigitNetwork):
            return self.network.logits(frames, lengths).float()
        scores, _ = self.network.logits(frames, lengths, *self.network.zero_states(len(frames)))
        return scores[torch.arange(len(frames)), lengths.long() - 1].float()

    def configure_optimizers(self) -> Any:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        return self.one_cycle(rate, weight_decay=decay, warm_up=WARM_UP)
