"""The captioner's training: settings, teacher forcing, averaged weights.

It knows images with their captions and the network, not files or publishing. Invariant: what is random while training
depends on seed, epoch and step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from training.fit.modules import SeededModule
from training.recipe import Section
from training.tasks.caption.network import Captioner, Viewer, Writer
from training.tasks.caption.text import NO_TARGET, SPECIAL, Batch, Captions, Image, learn_words

WARM_UP = 0.15  # of the run, to the highest learning rate
AVERAGE_EVERY = 4  # steps
FIGURES = ("dev_loss",)


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `least` times a word stands in train; `width` of an embedded word; `image` of what is seen of an image;
    `hidden` units; `rows` captions in a batch; `learning_rate` the highest of the one-cycle schedule; `averaging` per
    step.
    """

    least: int = Field(ge=1)
    width: int = Field(ge=1)
    image: int = Field(ge=1)
    hidden: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    smoothing: float = Field(ge=0, lt=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    averaging: float = Field(ge=0, lt=1)

    def make(self, features: int, words: int) -> Captioner:
        """Return an untrained network for vectors of `features` numbers and so many `words`."""
        viewer = Viewer(features, self.image, self.hidden, self.dropout)
        return Captioner(viewer, Writer(words, self.width, self.image, self.hidden, self.dropout))


class CaptionModule(SeededModule):
    """Train a `Captioner` by AdamW and a one-cycle rate; what is kept is a running mean of weights."""

    def __init__(self, settings: Settings, train: Sequence[Image], dev: Sequence[Image], seed: int) -> None:
        super().__init__(seed)
        self.settings = settings
        self.tokenizer = learn_words([text for image in train for text in image.captions], settings.least)
        self.train_part, self.dev_part = (Captions.of(part, self.tokenizer) for part in (train, dev))
        words = self.tokenizer.get_vocab_size() - len(SPECIAL)
        self.network = settings.make(self.train_part.vectors.shape[1], words)

    def configure_callbacks(self) -> list[Callback]:
        decay = self.settings.averaging**AVERAGE_EVERY
        return [EMAWeightAveraging(decay=decay, update_every_n_steps=AVERAGE_EVERY, use_buffers=False)]

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.train_part.batches(self.settings.rows, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_part.batches(self.settings.rows), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self._loss(batch, self.settings.smoothing)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        written = int((batch[2] != NO_TARGET).sum())
        self.log("dev_loss", self._loss(batch, 0.0), prog_bar=True, batch_size=written)

    def _loss(self, batch: Batch, smoothing: float) -> Tensor:
        """Return the mean nats per word that is known."""
        vectors, ids, following = batch
        scores = self.network(vectors, ids).flatten(0, 1)
        return functional.cross_entropy(scores.float(), following.flatten(), label_smoothing=smoothing)

    def configure_optimizers(self) -> Any:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        return self.one_cycle(rate, weight_decay=decay, warm_up=WARM_UP)
