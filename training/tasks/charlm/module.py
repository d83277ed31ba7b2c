"""The character model's text and training: consecutive chunks of many streams at once, the state carried between them.

It knows the text's split, the tokenizer, the network and Lightning, not publishing. Each epoch cuts its streams
elsewhere, by seed and epoch number, so that a resumed run sees what an uninterrupted one would have seen.

Invariants: one character is one token, whatever it is, so the ids of a text are those of its parts however it is cut;
training and the choice of the checkpoint see nothing of the validation part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from training.fit.modules import SeededModule
from training.fit.state_penalty import PENALTY_WEIGHT, state_penalty
from training.recipe import Section
from training.tasks.characters import make_tokenizer
from training.tasks.charlm.network import CharNetwork

TRAIN_SHARE = 0.9  # of the text, from its start; the rest is for validation, as the text's users have it
HELD_OUT_SHARE = 0.05  # of that part, from its start: chooses the checkpoint, is not trained on
HELD_OUT_STREAMS = 8
WARM_UP = 0.1  # of the run, to the highest learning rate


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `width` of an embedded character; `unknown_rate` of the characters are read as unknown in training; `rows`
    streams side by side; `chunk` characters between two steps of the optimiser, after which `restart_rate` of the rows
    begin anew; `learning_rate` the highest of the one-cycle schedule.
    """

    width: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    unknown_rate: float = Field(ge=0, lt=1)
    rows: int = Field(ge=1)
    chunk: int = Field(ge=1)
    restart_rate: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


@dataclass(frozen=True)
class Corpus:
    """The text in its three consecutive parts.

    What chooses the checkpoint comes first, so that training reads on to where the validation part begins, which is in
    the middle of a play.
    """

    held_out: str
    train: str
    validation: str

    @classmethod
    def of(cls, text: str) -> Self:
        """Split the text."""
        known = int(len(text) * TRAIN_SHARE)
        held_out = int(known * HELD_OUT_SHARE)
        return cls(text[:held_out], text[held_out:known], text[known:])

    @property
    def characters(self) -> str:
        """The characters that the model predicts: those of the training part, in order."""
        return "".join(sorted(set(self.train)))


class Streams(Dataset[tuple[Tensor, ...]]):
    """A text as `rows` streams of equal length side by side, cut into consecutive chunks.

    Each item is a batch: ids [rows, chunk], the ids that follow them, and whether the chunk is its streams' first.
    """

    def __init__(self, ids: Tensor, rows: int, chunk: int) -> None:
        length = len(ids) // rows
        self.ids, self.chunk = ids[: rows * length].view(rows, length), chunk

    def __len__(self) -> int:
        return math.ceil((self.ids.shape[1] - 1) / self.chunk)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= len(self):
            raise IndexError(index)
        start, end = index * self.chunk, min((index + 1) * self.chunk, self.ids.shape[1] - 1)
        return self.ids[:, start:end], self.ids[:, start + 1 : end + 1], torch.tensor(index == 0)


class CharModule(SeededModule):
    """Train `CharNetwork` by truncated backpropagation: state goes on from chunk to chunk, gradients do not."""

    def __init__(self, settings: Settings, corpus: Corpus, seed: int) -> None:
        super().__init__(seed)
        self.settings, self.corpus = settings, corpus
        tokenizer = make_tokenizer(corpus.characters)
        self.train_ids, self.held_out_ids = (
            torch.tensor(tokenizer.encode(part).ids) for part in (corpus.train, corpus.held_out)
        )
        self.network = CharNetwork(
            len(corpus.characters),
            settings.width,
            settings.hidden,
            settings.layers,
            settings.dropout,
            settings.unknown_rate,
        )
        self.carried: tuple[Tensor, ...] = ()

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(self.epoch_seed)
        start = int(torch.randint(len(self.train_ids), (), generator=generator))
        streams = Streams(self.train_ids.roll(-start), self.settings.rows, self.settings.chunk)
        return DataLoader(streams, batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(Streams(self.held_out_ids, HELD_OUT_STREAMS, 1024), batch_size=None)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=batch[0].numel())
        return loss + PENALTY_WEIGHT * state_penalty(self.carried)

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        loss = self._loss(batch)
        self.log("val_loss", loss, prog_bar=True, batch_size=batch[0].numel())

    def _loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the mean nats per character."""
        ids, following, first = batch
        rows, time = ids.shape
        states = self.network.recurrent.zero_states(rows) if first else tuple(s.detach() for s in self.carried)
        if self.training:  # some rows begin anew, as every session does
            goes_on = (torch.rand(rows, 1, device=ids.device) >= self.settings.restart_rate).float()
            states = tuple(state * goes_on for state in states)
        lengths = torch.full((rows,), time, dtype=torch.int32)
        scores, self.carried = self.network.logits(ids, lengths, *states)
        return functional.cross_entropy(scores.float().flatten(0, 1), following.flatten())

    def configure_optimizers(self) -> Any:
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        return self.one_cycle(rate, weight_decay=decay, warm_up=WARM_UP)
