"""The kind of recipe `sentiment`: treebank phrases in, a published text model out.

It knows the treebank's split and how either network is trained, described and measured. Invariant: weights come from
train, the checkpoint and every choice from dev; test is read only to measure the finished model through the service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import lightning
import numpy as np
import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from service import contract, tensors
from training.data import Found, find
from training.evaluate import ask
from training.export import Array, Servable
from training.recipe import Release, Table, TextReader
from training.sentiment_network import LiveSentimentNetwork, SentimentNetwork
from training.text import LABELS, POLARITY, UNKNOWN, Phrases, read_phrases, train_tokenizer

TRAIN, DEV, TEST = "sst2/train.tsv", "sst2/dev.tsv", "sst2/test.tsv"
LICENCE = (
    "as the project; trained on the Stanford Sentiment Treebank (Socher et al., EMNLP 2013), whose texts are "
    "excerpts of film reviews by their authors"
)
DESCRIPTION = "Says whether an English text is positive or negative, reading it whole and in both directions."
LIVE_DESCRIPTION = "Says after each word of an English text whether what stands so far is positive or negative."
LIMITS = (
    "English film reviews are all it was trained on: other subjects, languages and registers are outside.",
    "It knows two labels; neutral text still gets one of them, with a score that need not be calibrated.",
    "Words that the training part does not hold are read as unknown (about one in twenty in the test part); the "
    "answer's unknown_ratio, where the endpoint gives one, says how many were.",
    "Irony, and negation over a long distance, are often misread.",
)

Network = SentimentNetwork | LiveSentimentNetwork


class Settings(Table):
    """What a recipe of this kind sets. Units: `vocabulary` words, `max_length` tokens, `rows` per batch."""

    network: Literal["whole", "live"]
    vocabulary: int = Field(ge=3)
    max_length: int = Field(ge=1)
    rows: int = Field(ge=1)
    width: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    word_dropout: float = Field(ge=0, lt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


@dataclass(frozen=True)
class Treebank:
    """What training reads: the tokenizer made from the training part, and both parts it may look at."""

    tokenizer: Tokenizer
    train: Phrases
    dev: Phrases

    @classmethod
    def load(cls, vocabulary: int) -> Treebank:
        """Raises: DataError when a part is missing or another file."""
        train, dev = find(TRAIN).path, find(DEV).path
        tokenizer = train_tokenizer(read_phrases(train)[0], vocabulary)
        return cls(tokenizer, Phrases.of(train, tokenizer), Phrases.of(dev, tokenizer))


class SentimentModule(lightning.LightningModule):
    """Train a sentiment network by cross entropy, AdamW and a one-cycle learning rate."""

    def __init__(self, settings: Settings, treebank: Treebank, seed: int) -> None:
        super().__init__()
        self.settings, self.treebank, self.seed = settings, treebank, seed
        self.network = make_network(settings, treebank.tokenizer.get_vocab_size())
        self.accuracy = MulticlassAccuracy(len(LABELS), average="micro")

    def train_dataloader(self) -> DataLoader[Any]:
        shuffle = torch.Generator().manual_seed(1_000_003 * self.seed + self.current_epoch)
        return DataLoader(self.treebank.train.batches(self.settings.rows, shuffle), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.treebank.dev.batches(self.settings.rows), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        ids, lengths, labels = batch
        loss = functional.cross_entropy(self.network.logits(ids, lengths), labels)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(ids))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> None:
        ids, lengths, labels = batch
        self.accuracy(self.network.logits(ids, lengths), labels)
        self.log("dev_accuracy", self.accuracy, prog_bar=True, batch_size=len(ids))

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=settings.weight_decay, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def make_network(settings: Settings, vocabulary: int) -> Network:
    """Return the untrained network."""
    make = SentimentNetwork if settings.network == "whole" else LiveSentimentNetwork
    sizes = settings.width, settings.hidden, settings.layers
    return make(vocabulary, *sizes, settings.dropout, settings.word_dropout)


def prepare(settings: Settings, seed: int) -> SentimentModule:
    """Return a module on the treebank. Raises: DataError."""
    return SentimentModule(settings, Treebank.load(settings.vocabulary), seed)


def servable(network: Network, vocabulary: int) -> Servable:
    """Return the network with its signature: whole texts to one row of scores, or a row of scores after each word."""
    live = isinstance(network, LiveSentimentNetwork)
    axes: tensors.Shape = ("batch", "time", len(LABELS)) if live else ("batch", len(LABELS))

    def draw(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(1, vocabulary, length, dtype=np.int32)

    return Servable(
        network,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time")),
        (tensors.Tensor(name="scores", dtype="float32", shape=axes, labels=LABELS),),
        draw,
        states=network.recurrent.states if live else (),
        streamable=live,
    )


def ask_sentiment(model: str, url: str, texts: list[str]) -> list[str]:
    """Return the label of each text, from `/v1/sentiment`."""
    results = ask(url, "/v1/sentiment", "inputs", texts, model=model)
    return [result["label"] for result in results]


def ask_sentiment_live(model: str, url: str, texts: list[str]) -> list[str]:
    """Return the label with the higher score after each text's last word, from `/v1/step`."""
    results = ask(url, "/v1/step", "items", [{"text": text} for text in texts], model=model)
    return [LABELS[int(np.argmax(result["outputs"]["scores"]))] for result in results]


def measure(
    label: Callable[[str, list[str]], list[str]], parts: dict[str, Found], url: str
) -> tuple[contract.Metric, ...]:
    """Return the accuracy on dev and test beside that of the majority class of train."""
    train = read_phrases(parts["train"].path)[1]
    majority = int(np.mean(train) > 0.5)
    metrics = []
    for part in ("dev", "test"):
        texts, labels = read_phrases(parts[part].path)
        given = [LABELS.index(answer) for answer in label(url, texts)]
        metrics.append(
            contract.Metric(
                name=f"sst2_{part}_accuracy",
                value=float(np.mean(np.array(given) == labels)),
                floor=float(np.mean(np.array(labels) == majority)),
                floor_method=f"always {LABELS[majority]}, the majority class of train",
            )
        )
    return tuple(metrics)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError when the test part is missing."""
    assert isinstance(module, SentimentModule)
    parts = {"train": find(TRAIN), "dev": find(DEV), "test": find(TEST)}
    uses = {"train": "trained on", "dev": "chose the checkpoint", "test": "measured once, at the end"}
    tokenizer = module.treebank.tokenizer
    live = settings.network == "live"
    return Release(
        name=name,
        task="step" if live else "sentiment",
        description=LIVE_DESCRIPTION if live else DESCRIPTION,
        servable=servable(module.network, tokenizer.get_vocab_size()),
        data=tuple(parts[part].used_as(use) for part, use in uses.items()),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure, partial(ask_sentiment_live if live else ask_sentiment, name), parts),
        network=module.network.recurrent.network,
        text=TextReader(tokenizer.to_str(), settings.max_length, UNKNOWN, POLARITY),
    )
