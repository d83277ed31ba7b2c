"""The captioner's training: settings, teacher forcing, averaged weights.

It knows images with their captions and the network, not files or publishing. Invariant: what is random while training
depends on seed, epoch and step alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch.utils.data import DataLoader

from training.tasks.caption.network import Captioner, Viewer, Writer
from training.tasks.caption.text import SPECIAL, Captions, Image, learn_words
from training.tasks.writer import WriterModule, WriterSettings


class Settings(WriterSettings):
    """What a recipe of this kind sets.

    Units: `least` times a word stands in train; `width` of an embedded word; `image` of what is seen of an image;
    `hidden` units; `rows` captions in a batch.
    """

    least: int = Field(ge=1)
    width: int = Field(ge=1)
    image: int = Field(ge=1)
    hidden: int = Field(ge=1)
    rows: int = Field(ge=1)

    def make(self, features: int, words: int) -> Captioner:
        """Return an untrained network for vectors of `features` numbers and so many `words`."""
        viewer = Viewer(features, self.image, self.hidden, self.dropout)
        return Captioner(viewer, Writer(words, self.width, self.image, self.hidden, self.dropout))


class CaptionModule(WriterModule):
    """Train a `Captioner` by teacher forcing."""

    settings: Settings
    network: Captioner

    def __init__(self, settings: Settings, train: Sequence[Image], dev: Sequence[Image], seed: int) -> None:
        super().__init__(seed)
        self.settings = settings
        self.tokenizer = learn_words([text for image in train for text in image.captions], settings.least)
        self.train_part, self.dev_part = (Captions.of(part, self.tokenizer) for part in (train, dev))
        words = self.tokenizer.get_vocab_size() - len(SPECIAL)
        self.network = settings.make(self.train_part.vectors.shape[1], words)

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.train_part.batches(self.settings.rows, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_part.batches(self.settings.rows), batch_size=None)  # type: ignore[arg-type]
