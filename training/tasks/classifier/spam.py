"""The kind of recipe `spam`: text messages in, a published model out that tells spam from ham.

It knows the SMS Spam Collection, its split, and how the model is described and measured. Invariants: messages that
repeat one another are in one part; weights come from train, the checkpoint and the calibration from dev, and test is
read only to measure the finished model through the service.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Self

import lightning
import networkx  # type: ignore[import-untyped]
import numpy as np
import torch
from pydantic import model_validator
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
from sklearn.naive_bayes import MultinomialNB  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_matthews_corrcoef,
    binary_specificity_at_sensitivity,
)

from service.contract import provenance
from training.datasets import find
from training.evaluate import ask
from training.recipe import Kind, Release, TextReader
from training.tasks.classifier.module import FIGURES, TextModule, finish, servable, stacks
from training.tasks.classifier.module import Settings as TextSettings
from training.tasks.classifier.text import UNKNOWN, Texts, train_message_pieces

LABELS = ("ham", "spam")
MESSAGES = "sms_spam/sms.tsv"
SPLIT_SEED = 0
SHARES = {"test": 0.2, "dev": 0.1}  # of the messages of either label; train has the rest
RECALL = 0.95
LICENCE = (
    "Apache-2.0, as the project; trained on the SMS Spam Collection (Almeida, Hidalgo and Yamakami, DocEng 2011), "
    "whose messages are by their authors"
)
DESCRIPTION = "Says whether a text message is spam, by its words and by how its numbers are written."
LIMITS = (
    "It was trained on messages of about 2006 to 2011 from Britain and Singapore: the spam of today, other languages, "
    "electronic mail and long texts are outside.",
    "Messages that share half of their runs of three words are in one part of the split, so that test holds no variant "
    "of what was trained on; senders who varied more than that may stand in two.",
    "The label is that of the higher score. Where a wrongly stopped message costs more than a missed one, ask for "
    "scores and set a threshold above one half.",
)


class Settings(TextSettings):
    """What a recipe of this kind sets: as of any classifier that reads whole texts."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.network != "whole":
            raise ValueError(f"network is {self.network!r}; the endpoint of this kind scores whole texts: 'whole'")
        return self


@dataclass(frozen=True)
class Messages:
    """Messages and their labels, 1 for spam."""

    texts: list[str]
    labels: list[int]

    @classmethod
    def read(cls, file: Path) -> Messages:
        """Read lines of ham or spam TAB text."""
        lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").split("\n") if line]
        return cls([text for _, text in lines], [LABELS.index(label) for label, _ in lines])

    def split(self, seed: int) -> dict[str, Messages]:
        """Return the parts train, dev and test; either label has its share in each, variants are in one part."""
        groups = [
            (label, [places[index] for index in group])
            for label in range(len(LABELS))
            for places in [[place for place, its in enumerate(self.labels) if its == label]]
            for group in variants([self.texts[place] for place in places])
        ]
        wanted = {
            part: {label: share * count for label, count in Counter(self.labels).items()}
            for part, share in SHARES.items()
        }
        chosen: defaultdict[str, list[int]] = defaultdict(list)
        for index in np.random.default_rng(seed).permutation(len(groups)):
            label, same = groups[index]
            part = next((part for part, left in wanted.items() if left[label] >= len(same)), "train")
            if part != "train":
                wanted[part][label] -= len(same)
            chosen[part] += same
        return {part: self._at(sorted(chosen[part])) for part in ("train", "dev", "test")}

    def _at(self, places: Sequence[int]) -> Messages:
        return Messages([self.texts[place] for place in places], [self.labels[place] for place in places])


def variants(texts: Sequence[str]) -> list[list[int]]:
    """Group texts that are variants of each other, directly or through others; return the places of each group.

    Two are variants where they share half of their runs of three words, case, marks and whatever holds a digit set
    aside.
    """
    runs = [word_runs(text) for text in texts]
    having: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, own in enumerate(runs):
        for run in own:
            having[run].append(place)
    alike: networkx.Graph[int] = networkx.Graph()
    alike.add_nodes_from(range(len(texts)))
    pairs = {pair for places in having.values() for pair in combinations(places, 2)}
    alike.add_edges_from((a, b) for a, b in pairs if 2 * len(runs[a] & runs[b]) >= len(runs[a] | runs[b]))
    return [sorted(group) for group in networkx.connected_components(alike)]


def word_runs(text: str) -> frozenset[tuple[str, ...]]:
    """Return a text's runs of three words, each word that holds a digit as "0"; a shorter text is one run."""
    words = re.sub(r"\w*\d\w*", "0", " ".join(re.findall(r"\w+", text.lower()))).split() or [text]
    return frozenset(tuple(words[start : start + 3]) for start in range(max(len(words) - 2, 1)))


def prepare(settings: Settings, seed: int) -> TextModule:
    """Return a module on the messages; the split is the same for every seed. Raises: DataError."""
    parts = Messages.read(find(MESSAGES).path).split(SPLIT_SEED)
    tokenizer = train_message_pieces(parts["train"].texts, settings.vocabulary)
    train, dev = (
        Texts.of(
            parts[part].texts, functional.one_hot(torch.tensor(parts[part].labels), len(LABELS)).float(), tokenizer
        )
        for part in ("train", "dev")
    )
    return TextModule(settings, tokenizer, LABELS, train, dev, seed)


def naive_bayes(train: Messages, texts: Sequence[str]) -> Tensor:
    """Return the probability of spam by multinomial naive Bayes on words, with one added to every count.

    Shapes: returns [texts] float64. Source: Manning, Raghavan and Schuetze, Introduction to Information Retrieval,
    2008, section 13.2.
    """
    words = CountVectorizer(token_pattern=r"\w+")  # noqa: S106 - what a word is, no secret
    floor = make_pipeline(words, MultinomialNB(alpha=1.0))
    return torch.from_numpy(floor.fit(train.texts, train.labels).predict_proba(texts)[:, 1])


def figures(scores: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Return F1 and Matthews correlation at one half, and the share of ham above the score that 95 % of spam reach.

    Shapes: scores [messages], probabilities of spam.
    """
    targets = torch.tensor(labels)
    specificity, _ = binary_specificity_at_sensitivity(scores, targets, min_sensitivity=RECALL)
    return {
        "f1": float(binary_f1_score(scores, targets)),
        "mcc": float(binary_matthews_corrcoef(scores, targets)),
        "fpr_at_95_recall": 1 - float(specificity),
    }


def ask_spam(model: str, url: str, texts: Sequence[str]) -> Tensor:
    """Return the probability of spam of each text, from `/v1/sentiment`. Shapes: returns [texts] float64."""
    results = ask(url, "/v1/sentiment", "inputs", list(texts), model=model, scores="all")
    return torch.tensor([result["scores"]["spam"] for result in results], dtype=torch.float64)


def measure(model: str, parts: Mapping[str, Messages], url: str) -> tuple[provenance.Metric, ...]:
    """Return the figures on dev and test beside those of naive Bayes, trained on the same part."""
    metrics = []
    for part in ("dev", "test"):
        messages = parts[part]
        found = figures(ask_spam(model, url, messages.texts), messages.labels)
        floors = figures(naive_bayes(parts["train"], messages.texts), messages.labels)
        metrics += [
            provenance.Metric(
                name=f"spam_{part}_{figure}",
                value=value,
                floor=floors[figure],
                floor_method="multinomial naive Bayes on the words of train",
            )
            for figure, value in found.items()
        ]
    return tuple(metrics)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, TextModule)
    finish(module)
    file = find(MESSAGES)
    parts = Messages.read(file.path).split(SPLIT_SEED)
    sizes = {part: len(messages.texts) for part, messages in parts.items()}
    used = (
        f"split with seed {SPLIT_SEED}, repetitions in one part: {sizes['train']:,} messages trained on, "
        f"{sizes['dev']:,} chose the checkpoint and calibrated the scores, {sizes['test']:,} measured once, at the end"
    )
    return Release(
        name=name,
        task="sentiment",
        description=DESCRIPTION,
        servable=servable(module.network, module.tokenizer.get_vocab_size(), LABELS),
        data=(file.used_as(used),),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(measure, name, parts),
        networks=tuple(stack.network for stack in stacks(module.network)),
        text=TextReader(module.tokenizer.to_str(), settings.max_length, UNKNOWN, None),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
