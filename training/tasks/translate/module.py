"""The translator's training: settings, teacher forcing, averaged weights.

It knows pairs of sentences and the network, not which corpus, nor publishing. Invariant: what is random while training
depends on seed, epoch and step alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from training.fit.modules import SeededModule
from training.recipe import Section
from training.tasks.translate.network import Decoder, Encoder, Translator
from training.tasks.translate.text import NO_TARGET, Batch, Pair, Pairs, learn_source, learn_target

WARM_UP = 0.15  # of the run, to the highest learning rate
AVERAGE_EVERY = 4  # steps
FIGURES = ("dev_loss",)


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `source_vocabulary` and `target_vocabulary` in tokens; `width` of an embedded token; `encoder` hidden units
    of each direction, `decoder` of each of its two layers; `tokens` of translations in a batch; `learning_rate` the
    highest of the one-cycle schedule; `averaging` per step.
    """

    corpus: Literal["tatoeba", "multi30k"]
    source_vocabulary: int = Field(ge=300)
    target_vocabulary: int = Field(ge=300)
    width: int = Field(ge=1)
    encoder: int = Field(ge=1)
    encoder_layers: int = Field(ge=1)
    decoder: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    smoothing: float = Field(ge=0, lt=1)
    tokens: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    averaging: float = Field(ge=0, lt=1)

    def make(self, source: int, target: int) -> Translator:
        """Return an untrained network for vocabularies of these sizes."""
        encoder = Encoder(source, self.width, self.encoder, self.encoder_layers, self.decoder, self.dropout)
        return Translator(encoder, Decoder(target, self.width, self.decoder, encoder.features, self.dropout))


@dataclass(frozen=True)
class Seen:
    """The pairs that training and its choices may see."""

    train: list[Pair]
    dev: list[Pair]


class TranslateModule(SeededModule):
    """Train a `Translator` by AdamW and a one-cycle rate; what is kept is a running mean of weights."""

    def __init__(self, settings: Settings, seen: Seen, seed: int) -> None:
        super().__init__(seed)
        self.settings = settings
        read, written = (list(dict.fromkeys(texts)) for texts in zip(*seen.train, strict=True))
        self.source = learn_source(read, settings.source_vocabulary)
        self.target = learn_target(written, settings.target_vocabulary)
        self.train_part, self.dev_part = (Pairs.of(part, self.source, self.target) for part in (seen.train, seen.dev))
        self.network = settings.make(self.source.get_vocab_size(), self.target.get_vocab_size())

    def configure_callbacks(self) -> list[Callback]:
        decay = self.settings.averaging**AVERAGE_EVERY
        return [EMAWeightAveraging(decay=decay, update_every_n_steps=AVERAGE_EVERY, use_buffers=False)]

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.train_part.batches(self.settings.tokens, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_part.batches(self.settings.tokens), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self._loss(batch, self.settings.smoothing)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        written = int((batch[2] != NO_TARGET).sum())
        self.log("dev_loss", self._loss(batch, 0.0), prog_bar=True, batch_size=written)

    def _loss(self, batch: Batch, smoothing: float) -> Tensor:
        """Return the mean nats per token."""
        source, ids, following = batch
        scores, wanted = self.network(source, ids).flatten(0, 1), following.flatten()
        return functional.cross_entropy(scores.float(), wanted, label_smoothing=smoothing)

    def configure_optimizers(self) -> Any:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        return self.one_cycle(rate, weight_decay=decay, warm_up=WARM_UP)
