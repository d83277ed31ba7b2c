"""The translator's training: settings, teacher forcing, averaged weights.

It knows pairs of sentences and the network, not which corpus, nor publishing. Invariant: what is random while training
depends on seed, epoch and step alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch.utils.data import DataLoader

from training.tasks.translate.network import Decoder, Encoder, Translator
from training.tasks.translate.text import Pair, Pairs, learn_source, learn_target
from training.tasks.writer import WriterModule, WriterSettings


class Settings(WriterSettings):
    """What a recipe of this kind sets.

    Units: `source_vocabulary` and `target_vocabulary` in tokens; `width` of an embedded token; `encoder` hidden units
    of each direction, `decoder` of each of its two layers; `tokens` of translations in a batch.
    """

    corpus: Literal["tatoeba", "multi30k"]
    source_vocabulary: int = Field(ge=300)
    target_vocabulary: int = Field(ge=300)
    width: int = Field(ge=1)
    encoder: int = Field(ge=1)
    encoder_layers: int = Field(ge=1)
    decoder: int = Field(ge=1)
    tokens: int = Field(ge=1)

    def make(self, source: int, target: int) -> Translator:
        """Return an untrained network for vocabularies of these sizes."""
        encoder = Encoder(source, self.width, self.encoder, self.encoder_layers, self.decoder, self.dropout)
        return Translator(encoder, Decoder(target, self.width, self.decoder, encoder.features, self.dropout))


@dataclass(frozen=True)
class Seen:
    """The pairs that training and its choices may see."""

    train: list[Pair]
    dev: list[Pair]


class TranslateModule(WriterModule):
    """Train a `Translator` by teacher forcing."""

    settings: Settings
    network: Translator

    def __init__(self, settings: Settings, seen: Seen, seed: int) -> None:
        super().__init__(seed)
        self.settings = settings
        read, written = (list(dict.fromkeys(texts)) for texts in zip(*seen.train, strict=True))
        self.source = learn_source(read, settings.source_vocabulary)
        self.target = learn_target(written, settings.target_vocabulary)
        self.train_part, self.dev_part = (Pairs.of(part, self.source, self.target) for part in (seen.train, seen.dev))
        self.network = settings.make(self.source.get_vocab_size(), self.target.get_vocab_size())

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.train_part.batches(self.settings.tokens, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_part.batches(self.settings.tokens), batch_size=None)  # type: ignore[arg-type]
