"""The kind of recipe `sentiment`: treebank phrases in, a published text model out.

It knows the treebank's split, what either model reads it by, and how it is described and measured. Invariant: weights
come from train, the checkpoint and every choice from dev; test is read only to measure the finished model through the
service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from service.contract import provenance
from training.datasets import Found, find
from training.evaluate import ask
from training.recipe import Kind, Release, TextReader
from training.tasks.classifier.module import FIGURES, Settings, TextModule, finish, servable, stacks
from training.tasks.classifier.text import UNKNOWN, Texts, train_review_pieces, train_review_words, words_of

LABELS = ("negative", "positive")
POLARITY = (-1.0, 1.0)
TRAIN, DEV, TEST = "sst2/train.tsv", "sst2/dev.tsv", "sst2/test.tsv"
# Weight of a phrase by its length in tokens. What is measured are sentences of 19 words, train's phrases have 9.
LENGTH_POWER = 0.5
LICENCE = (
    "Apache-2.0, as the project; trained on the Stanford Sentiment Treebank (Socher et al., EMNLP 2013), whose texts "
    "are excerpts of film reviews by their authors"
)
DESCRIPTION = "Says whether an English text is positive or negative, reading it whole and in both directions."
LIVE_DESCRIPTION = "Says after each word of an English text whether what stands so far is positive or negative."
LIMITS = (
    "English film reviews are all it was trained on: other subjects, languages and registers are outside.",
    "It knows two labels; neutral text still gets one of them, with a score that was calibrated on sentences with a "
    "clear opinion alone.",
    "Irony, and negation over a long distance, are often misread.",
)
PIECES_LIMIT = "Words that the training part does not hold are read in pieces, from which their meaning is guessed."
WORDS_LIMIT = (
    "Words that the training part does not hold are read as unknown (about one in twenty in the test part); the "
    "answer's unknown_ratio, where the endpoint gives one, says how many were."
)


def read_phrases(file: Path) -> tuple[list[str], list[int]]:
    """Read a treebank file: a header, then label TAB text. Returns texts and labels, 1 for positive."""
    lines = file.read_text(encoding="utf-8").splitlines()[1:]
    pairs = [line.split("\t", 1) for line in lines]
    return [text for _, text in pairs], [int(label) for label, _ in pairs]


def prepare(settings: Settings, seed: int) -> TextModule:
    """Return a module on the treebank. Raises: DataError when a part is missing or another file."""
    phrases, labels = read_phrases(find(TRAIN).path)
    make = train_review_words if settings.network == "live" else train_review_pieces
    tokenizer = make(phrases, settings.vocabulary)
    dev_phrases, dev_labels = read_phrases(find(DEV).path)
    dev = Texts.of(dev_phrases, functional.one_hot(torch.tensor(dev_labels), len(LABELS)).float(), tokenizer)
    return TextModule(settings, tokenizer, LABELS, training_texts(phrases, labels, tokenizer), dev, seed)


def training_texts(phrases: Sequence[str], labels: Sequence[int], tokenizer: Tokenizer) -> Texts:
    """Return the phrases, and every word that has no label of its own with either label equally likely.

    The treebank has a label for each word, and its binary form leaves out what is neutral (Socher et al., 2013): three
    of four words.
    """
    words = [words_of(tokenizer, phrase) for phrase in phrases]
    neutral = sorted(
        {word for phrase in words for word in phrase} - {phrase[0] for phrase in words if len(phrase) == 1}
    )
    targets = functional.one_hot(torch.tensor(labels), len(LABELS)).float()
    even = torch.full((len(neutral), len(LABELS)), 1 / len(LABELS))
    texts = Texts.of([*phrases, *neutral], torch.cat([targets, even]), tokenizer)
    weights = torch.tensor([len(ids) for ids in texts.ids]) ** LENGTH_POWER
    return replace(texts, weights=weights / weights.mean())


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
) -> tuple[provenance.Metric, ...]:
    """Return the accuracy on dev and test beside that of the majority class of train."""
    train = read_phrases(parts["train"].path)[1]
    majority = int(np.mean(train) > 0.5)
    metrics = []
    for part in ("dev", "test"):
        texts, labels = read_phrases(parts[part].path)
        given = [LABELS.index(answer) for answer in label(url, texts)]
        metrics.append(
            provenance.Metric(
                name=f"sst2_{part}_accuracy",
                value=float(np.mean(np.array(given) == labels)),
                floor=float(np.mean(np.array(labels) == majority)),
                floor_method=f"always {LABELS[majority]}, the majority class of train",
            )
        )
    return tuple(metrics)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError when the test part is missing."""
    assert isinstance(module, TextModule)
    finish(module)
    parts = {"train": find(TRAIN), "dev": find(DEV), "test": find(TEST)}
    uses = {
        "train": "trained on",
        "dev": "chose the checkpoint, calibrated the scores",
        "test": "measured on, chose nothing",
    }
    live = settings.network == "live"
    vocabulary = module.tokenizer.get_vocab_size()
    return Release(
        name=name,
        task="step" if live else "sentiment",
        description=LIVE_DESCRIPTION if live else DESCRIPTION,
        servable=servable(module.network, vocabulary, LABELS),
        data=tuple(parts[part].used_as(use) for part, use in uses.items()),
        licence=LICENCE,
        limits=(*LIMITS, WORDS_LIMIT if live else PIECES_LIMIT),
        measure=partial(measure, partial(ask_sentiment_live if live else ask_sentiment, name), parts),
        networks=tuple(stack.network for stack in stacks(module.network)),
        text=TextReader(module.tokenizer.to_str(), settings.max_length, UNKNOWN, POLARITY),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
