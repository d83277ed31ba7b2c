"""Training of text classifiers: settings, loss, averaged weights, calibration, and the signature of what is served.

It knows labelled texts and the text networks, not which texts. Invariant: what is random while training depends on
seed, epoch and step alone.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from pydantic import Field, model_validator
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from service.contract import tensors
from training.export.graph import Array, Servable
from training.fit.modules import SeededModule
from training.networks.nodes import Cell
from training.networks.recurrent import Recurrent
from training.recipe import Section
from training.tasks.classifier.network import LiveTextNetwork, Reader, TextNetwork, Tokens, Words
from training.tasks.classifier.text import Batch, Texts, WordIndex, grams_of, parts_of

READER_STRIDE = 999_999_937  # a prime, so that the batches of readers, seeds and epochs seldom meet
WARM_UP = 0.3  # of the run, to the highest learning rate
TEMPERATURES = torch.logspace(-1, 1, 201)

FIGURES = ("dev_loss", "dev_accuracy")


class ReaderSettings(Section):
    """One reader, of the tokens or of the words whose pieces they are: it pools what it reads both ways, or votes by
    the end. `width` is of a token's or word's vector.
    """

    reads: Literal["tokens", "words"]
    cell: Cell
    bidirectional: bool
    width: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)


class Settings(Section):
    """How a text classifier reads, learns and is served.

    Units: `vocabulary` and `max_length` tokens; `grams` runs of characters that tokens share; `words` that are known
    whole.
    """

    network: Literal["whole", "live"]
    vocabulary: int = Field(gt=2)
    max_length: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    token_dropout: float = Field(ge=0, lt=1)
    unknown: float = Field(ge=0, lt=1)
    grams: int = Field(ge=0)
    words: int = Field(ge=0)
    opened: float = Field(ge=0, lt=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    averaging: float = Field(ge=0, lt=1)
    readers: tuple[ReaderSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _live_reads_forward(self) -> Settings:
        first = self.readers[0]
        if self.network == "live" and (len(self.readers) > 1 or first.bidirectional or first.reads == "words"):
            raise ValueError("a live network has one reader, of tokens, in one direction")
        return self

    def make(self, grams: Tensor, index: WordIndex, labels: int) -> TextNetwork:
        """Return an untrained network. Shapes: grams [vocabulary, longest], as `grams_of` makes them."""
        readers = [
            Reader(
                Words(index, each.width, self.token_dropout, self.unknown)
                if each.reads == "words"
                else Tokens(grams, each.width, self.token_dropout, self.unknown),
                Recurrent(
                    each.cell,
                    each.width,
                    each.hidden,
                    layers=each.layers,
                    bidirectional=each.bidirectional,
                    dropout=self.dropout,
                ),
                labels,
                self.dropout,
            )
            for each in self.readers
        ]
        return LiveTextNetwork(readers) if self.network == "live" else TextNetwork(readers)


class TextModule(SeededModule):
    """Train a text network by cross entropy, AdamW and a one-cycle rate; what is kept is a running mean of weights.

    Each reader learns from batches and a loss of its own, so that they differ. The validation figures are
    `dev_accuracy`, and `dev_loss` at the temperature that suits the validation part best, since that is how the model
    will be published.
    """

    def __init__(
        self, settings: Settings, tokenizer: Tokenizer, labels: tuple[str, ...], train: Texts, dev: Texts, seed: int
    ) -> None:
        super().__init__(seed)
        self.settings, self.tokenizer, self.labels = settings, tokenizer, labels
        self.train_texts, self.dev_texts = train, dev
        self.parts = parts_of(tokenizer)
        index = WordIndex.of(tokenizer, train.ids, settings.words)
        self.network = settings.make(grams_of(tokenizer, settings.grams), index, len(labels))
        self._read: list[tuple[Tensor, Tensor]] = []

    def configure_callbacks(self) -> list[Callback]:
        return self.running_mean(self.settings.averaging)

    def train_dataloader(self) -> DataLoader[Any]:
        # Pieces that are taken apart make other lengths, and a batch more or less: what a reader has over is left out.
        each = [self._batches(self.epoch_seed + READER_STRIDE * index) for index in range(len(self.settings.readers))]
        return DataLoader(list(zip(*each, strict=False)), batch_size=None)  # type: ignore[arg-type]

    def _batches(self, seed: int) -> list[Batch]:
        texts = self.train_texts.opened(self.parts, self.settings.opened, seed)
        return texts.batches(self.settings.rows, torch.Generator().manual_seed(seed))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dev_texts.batches(self.settings.rows), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batches: tuple[Batch, ...], index: int) -> Tensor:
        """Add up the readers' losses, each on a batch of its own: on shared batches they would err alike."""
        losses = [
            (functional.cross_entropy(reader(ids, lengths).float(), targets, reduction="none") * weights).mean()
            for reader, (ids, lengths, targets, weights) in zip(self.network.readers, batches, strict=True)
        ]
        loss = torch.stack(losses).sum()
        self.log("train_loss", loss / len(losses), prog_bar=True, batch_size=len(batches[0][0]))
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip each reader's gradient by itself, as if it were trained alone."""
        for reader in self.network.readers:
            nn.utils.clip_grad_norm_(reader.parameters(), gradient_clip_val)

    def validation_step(self, batch: Batch, index: int) -> None:
        ids, lengths, targets, _ = batch
        self._read.append((self.network.votes(ids, lengths).float().mean(0), targets))

    def on_validation_epoch_end(self) -> None:
        votes, targets = (torch.cat(column) for column in zip(*self._read, strict=True))
        self._read.clear()
        loss = functional.cross_entropy(votes / best_temperature(votes, targets), targets)
        accuracy = (votes.argmax(1) == targets.argmax(1)).float().mean()
        self.log_dict({"dev_loss": loss, "dev_accuracy": accuracy}, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        return self.one_cycle(settings.learning_rate, weight_decay=settings.weight_decay, warm_up=WARM_UP)


def best_temperature(votes: Tensor, targets: Tensor) -> float:
    """Return what the votes must be divided by for the lowest cross entropy. Shapes: votes, targets [texts, labels].

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    losses = torch.stack([functional.cross_entropy(votes / temperature, targets) for temperature in TEMPERATURES])
    return float(TEMPERATURES[losses.argmin()])


@torch.no_grad()
def finish(module: TextModule) -> None:
    """Round the tables of a trained module to what is published, then calibrate it on the validation part.

    The temperature goes into the heads, so a finished module has temperature 1, and finishing it again changes nothing.
    """
    network = module.network.cpu().eval()
    readers = _readers(network)
    for reader in readers:
        reader.tokens.settle()
    read = [(network.votes(ids, lengths).mean(0), targets) for ids, lengths, targets, _ in module.val_dataloader()]
    votes, targets = (torch.cat(column) for column in zip(*read, strict=True))
    temperature = best_temperature(votes, targets)
    for reader in readers:
        for parameter in reader.head.parameters():
            parameter.div_(temperature)


def _readers(network: TextNetwork) -> list[Reader]:
    return [reader for reader in network.readers if isinstance(reader, Reader)]


def stacks(network: TextNetwork) -> list[Recurrent]:
    """Return the stack of each reader."""
    return [reader.recurrent for reader in _readers(network)]


def servable(network: TextNetwork, vocabulary: int, labels: tuple[str, ...]) -> Servable:
    """Return the network with its signature: whole texts to one row of scores, or a row of scores after each token."""
    live = isinstance(network, LiveTextNetwork)
    axes: tensors.Shape = ("batch", "time", len(labels)) if live else ("batch", len(labels))

    def draw(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(1, vocabulary, length, dtype=np.int32)

    return Servable(
        network,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time")),
        (tensors.Tensor(name="scores", dtype="float32", shape=axes, labels=labels),),
        draw,
        states=stacks(network)[0].states if live else (),
        streamable=live,
    )
