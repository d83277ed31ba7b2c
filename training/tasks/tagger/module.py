"""The tagger's training: settings, cross entropy on both kinds of tags, averaged weights.

It knows tagged sentences and the network, not which treebank, nor publishing. Invariant: what is random while training
depends on seed, epoch and step alone.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from training.fit.modules import SeededModule
from training.fit.state_penalty import state_penalty
from training.networks.nodes import Cell
from training.networks.recurrent import Recurrent
from training.recipe import Section
from training.tasks.tagger.network import Spelling, TaggerNetwork, Words
from training.tasks.tagger.text import NO_TARGET, Batch, Sentences, Speller, Tags, Treebank, Vocabulary, characters_of

WARM_UP = 0.2  # of the run, to the highest learning rate
FINE_WEIGHT = 0.5  # of the finer tags in the loss
STATE_WEIGHT = 0.3  # of the penalty on large states: without it rounding is just within the parity suite's bound
VALIDATED_TOKENS = 4000  # a batch

FIGURES = ("dev_loss", "dev_accuracy")


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `characters` of a word are read; `word_width` of a word's own vector, `character_width` of a character's;
    `filters` of each length over the characters; `unknown` of the words are read as unknown in training; `tokens` in a
    batch; `learning_rate` the highest of the one-cycle schedule; `averaging` per step.
    """

    max_length: int = Field(ge=1)
    characters: int = Field(ge=2)
    word_width: int = Field(ge=1)
    character_width: int = Field(ge=1)
    filters: int = Field(ge=1)
    cell: Cell
    bidirectional: bool
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    word_dropout: float = Field(ge=0, lt=1)
    layer_dropout: float = Field(ge=0, lt=1)
    dropout: float = Field(ge=0, lt=1)
    unknown: float = Field(ge=0, lt=1)
    tokens: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    averaging: float = Field(ge=0, lt=1)

    def make(self, vocabulary: Vocabulary, alphabet: int, tags: Tags) -> TaggerNetwork:
        """Return an untrained network. `alphabet` is the number of characters that have an id of their own."""
        spelling = Spelling(2 + alphabet, self.character_width, self.filters)
        words = Words(vocabulary.vectors, vocabulary.counts, self.word_width, spelling, self.unknown)
        recurrent = Recurrent(
            self.cell,
            words.features,
            self.hidden,
            layers=self.layers,
            bidirectional=self.bidirectional,
            dropout=self.layer_dropout,
        )
        dropouts = (self.word_dropout, self.dropout)
        return TaggerNetwork(words, recurrent, dropouts, (len(tags.coarse), len(tags.fine)))


class TaggerModule(SeededModule):
    """Train a `TaggerNetwork` by AdamW and a one-cycle rate; what is kept is a running mean of weights."""

    def __init__(self, settings: Settings, treebank: Treebank, seed: int) -> None:
        super().__init__(seed)
        self.settings, self.tags = settings, Tags.of(treebank.train)
        self.vocabulary = Vocabulary.of(treebank.train, treebank.vectors)
        self.characters = characters_of(treebank.train, settings.characters)
        speller = Speller(self.vocabulary.tokenizer, self.characters)
        self.train_part, self.dev_part = (
            Sentences.of(part, speller, self.tags) for part in (treebank.train, treebank.dev)
        )
        self.network = settings.make(self.vocabulary, len(self.characters.alphabet), self.tags)

    def configure_callbacks(self) -> list[Callback]:
        return self.running_mean(self.settings.averaging)

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.train_part.batches(self.settings.tokens, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_part.batches(VALIDATED_TOKENS), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        rows, targets = batch
        read, states = self._read(rows)
        losses = [
            functional.cross_entropy(head(read).float().flatten(0, 1), targets[..., kind].flatten())
            for kind, head in enumerate((self.network.coarse, self.network.fine))
        ]
        self.log("train_loss", losses[0], prog_bar=True, batch_size=targets[..., 0].numel())
        loss = losses[0] + FINE_WEIGHT * losses[1]
        return loss if self.settings.bidirectional else loss + STATE_WEIGHT * state_penalty(states)

    def validation_step(self, batch: Batch, index: int) -> None:
        rows, targets = batch
        read, _ = self._read(rows)
        scores, wanted = self.network.coarse(read).float().flatten(0, 1), targets[..., 0].flatten()
        scores, wanted = scores[wanted != NO_TARGET], wanted[wanted != NO_TARGET]
        right = (scores.argmax(1) == wanted).float().mean()
        figures = {"dev_loss": functional.cross_entropy(scores, wanted), "dev_accuracy": right}
        self.log_dict(figures, prog_bar=True, batch_size=len(wanted))

    def _read(self, rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.network.read(rows, torch.full((len(rows),), rows.shape[1], dtype=torch.int32))

    def configure_optimizers(self) -> Any:
        settings = self.settings
        return self.one_cycle(settings.learning_rate, weight_decay=settings.weight_decay, warm_up=WARM_UP)
