"""A reader of handwriting, which judges what the model writes: trained on the true ink of the training writers alone.

A bidirectional LSTM reads points, two at a time, and spells by connectionist temporal classification. It has no list of
words; but the writers trained on wrote the same thousand words as the others, and what letters follow each other it may
have learned. It is never published. Invariant: nothing that a network wrote is trained on, or chooses the checkpoint.

Source: Graves et al., Connectionist Temporal Classification, ICML 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NoReturn

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from service.errors import StartupError
from training.fit.modules import SeededModule
from training.networks.recurrent import Recurrent
from training.recipe import Kind, Recipe, Run, Section
from training.tasks.handwriting.data import Points, Word, read_parts
from training.tasks.handwriting.network import POINT
from training.tasks.handwriting.paper import Batch, Paper

WARM_UP = 0.2
PAIR = 2  # points that are read at a time
ROWS, READ_ROWS = 32, 128
HIDDEN, LAYERS, DROPOUT = 128, 2, 0.3
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.01
SIZES, ASPECTS, SLANTS = 0.15, 0.1, 0.2  # spreads of what words are changed by, in training
JITTER = 0.1  # of each point, in the network's unit
AT_REST = np.zeros((1, POINT), np.float32)


class Reader(nn.Module):
    """Spell points: the chances of each character, and of none, at each pair of points."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.recurrent = Recurrent("lstm", PAIR * POINT, HIDDEN, layers=LAYERS, bidirectional=True, dropout=DROPOUT)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(2 * HIDDEN, characters + 1)  # the last one: none

    def forward(self, points: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return their logarithms, and how many pairs there are.

        Shapes: points [rows, time, 3]; counts, of points and of pairs, [rows] int32; logarithms [rows, pairs,
        characters + 1].
        """
        even = functional.pad(points, (0, 0, 0, points.shape[1] % PAIR))
        pairs = (counts + 1) // PAIR
        read, _ = self.recurrent(even.reshape(len(points), -1, PAIR * POINT), pairs)
        scores: Tensor = self.head(self.dropout(read))
        return scores.log_softmax(-1), pairs


class ReaderModule(SeededModule):
    """Train a `Reader` on words that are made larger, wider or more slanted, and shaken, at random."""

    def __init__(self, train: Sequence[Word], validation: Sequence[Word], seed: int) -> None:
        super().__init__(seed)
        self.paper, self.train_part, self.validation_part = Paper.of(train), train, validation
        self.network = Reader(len(self.paper.characters))

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        return DataLoader(self.paper.batches(self.train_part, ROWS, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.paper.batches(self.validation_part, READ_ROWS), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        points, counts, ids, lengths = batch
        loss = self._loss((changed(points), counts, ids, lengths))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(points))
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.log("val_loss", self._loss(batch), prog_bar=True, batch_size=len(batch[0]))

    def _loss(self, batch: Batch) -> Tensor:
        points, counts, ids, lengths = batch
        logs, pairs = self.network(points, counts)
        rows = (ids.long(), pairs.long(), lengths.long())
        return functional.ctc_loss(logs.transpose(0, 1), *rows, blank=len(self.paper.characters))

    def configure_optimizers(self) -> Any:
        return self.one_cycle(LEARNING_RATE, weight_decay=WEIGHT_DECAY, warm_up=WARM_UP)

    @torch.no_grad()
    def read(self, rows: Sequence[Points]) -> list[str]:
        """Spell each row of points, by its likeliest character at each pair; of one without points nothing is read.

        Units: millimetres.
        """
        texts = []
        for start in range(0, len(rows), READ_ROWS):
            some = rows[start : start + READ_ROWS]
            points, counts = self.paper.points([row if len(row) else AT_REST for row in some])
            logs, pairs = self.network(points, counts)
            for row, ids, count in zip(some, logs.argmax(-1).tolist(), pairs.tolist(), strict=True):
                spelt = [number for number, _ in groupby(ids[:count]) if number < len(self.paper.characters)]
                texts.append("".join(self.paper.characters[number] for number in spelt) if len(row) else "")
        return texts


def changed(points: Tensor) -> Tensor:
    """Return words in other sizes, widths and slants, and shaken. Shapes: points and returned [rows, time, 3]."""
    size, aspect, slant = torch.randn(3, len(points), 1) * torch.tensor([SIZES, ASPECTS, SLANTS])[:, None, None]
    moves = points[..., :2] + JITTER * torch.randn_like(points[..., :2])
    right = (moves[..., 0] + slant * moves[..., 1]) * torch.exp(size + aspect)
    return torch.stack([right, moves[..., 1] * torch.exp(size), points[..., 2]], -1)


def _prepare(settings: Section, seed: int) -> ReaderModule:
    parts = read_parts()
    return ReaderModule(parts["train"], parts["validation"], seed)


def _release(name: str, settings: Section, module: lightning.LightningModule) -> NoReturn:
    raise StartupError(f"{name} judges what others write, and is not published")


RECOGNIZER = Recipe(
    "handwriting-recognizer",
    "reads handwritten words",
    Kind(Section, ("val_loss",), _prepare, _release),
    Run(epochs=14, monitor="val_loss", mode="min", patience=14, gradient_norm=1.0, precision="32-true"),
    Section(),
)
