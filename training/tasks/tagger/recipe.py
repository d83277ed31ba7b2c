"""The kind of recipe `tagger`: a treebank's sentences in, a published model of each word's part of speech out.

It knows which treebank, and how the network is described. Invariant: weights come from train, the checkpoint and every
choice from dev; test is read only to measure the finished model through the service.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np
from tokenizers import Tokenizer

from service.contract import tensors
from service.contract.parts import Characters
from training.datasets import find
from training.export.graph import Array, Servable
from training.recipe import Kind, Release, TextReader
from training.tasks.tagger.evaluation import figures
from training.tasks.tagger.module import FIGURES, Settings, TaggerModule
from training.tasks.tagger.network import TaggerNetwork
from training.tasks.tagger.text import (
    UNKNOWN,
    Sentence,
    Treebank,
    Vocabulary,
    read_sentences,
    read_vectors,
    split_words,
)

TRAIN, DEV, TEST = "ud_ewt/train.tsv.gz", "ud_ewt/dev.tsv.gz", "ud_ewt/test.tsv.gz"
VECTORS = "glove/glove.6B.50d.top50k.npz"
LICENCE = (
    "Apache-2.0, as the project; trained on Universal Dependencies English EWT (Silveira et al., LREC 2014; "
    "CC BY-SA 4.0); holds vectors of GloVe 6B (Pennington et al., EMNLP 2014; Public Domain Dedication and License)"
)
DESCRIPTION = "Says of each word of an English text which part of speech it is, reading on both sides of it."
LIVE_DESCRIPTION = "Says of each word of an English text, as soon as it is read, which part of speech it is."
LIMITS = (
    "English weblogs, newsgroups, e-mails, reviews and answers are all it was trained on: other registers and "
    "languages are outside.",
    "It knows the 17 parts of speech of Universal Dependencies; where the treebank's annotators disagree, it guesses.",
)
LIVE_LIMIT = "It has not read what follows when it tags a word: words that only the next word explains are often wrong."


def read_treebank() -> Treebank:
    """Read what training may see. Raises: DataError when a part is missing or another file."""
    train, dev = (read_sentences(find(part).path) for part in (TRAIN, DEV))
    return Treebank(train, dev, read_vectors(find(VECTORS).path))


def prepare(settings: Settings, seed: int) -> TaggerModule:
    """Return a module on the treebank. Raises: DataError."""
    return TaggerModule(settings, read_treebank(), seed)


def servable(network: TaggerNetwork, vocabulary: Vocabulary, characters: Characters, tags: tuple[str, ...]) -> Servable:
    """Return the network with its signature: rows of a word's id and its characters' in, the tags' scores out."""
    live = not network.recurrent.bidirectional
    words, letters = len(vocabulary.vectors), 2 + len(characters.alphabet)

    def draw(rng: np.random.Generator, length: int) -> Array:
        ids = [rng.integers(0, words, (length, 1)), rng.integers(0, letters, (length, characters.width))]
        return np.concatenate(ids, 1, dtype=np.int32)

    return Servable(
        network,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time", 1 + characters.width)),
        (tensors.Tensor(name="scores", dtype="float32", shape=("batch", "time", len(tags)), labels=tags),),
        draw,
        states=network.recurrent.states if live else (),
        streamable=live,
    )


def _limits(settings: Settings, tokenizer: Tokenizer, test: list[Sentence]) -> tuple[str, ...]:
    words = sum(len(sentence) for sentence in test)
    return (
        *LIMITS,
        *(() if settings.bidirectional else (LIVE_LIMIT,)),
        f"Of a word that has more than {settings.characters} characters it reads the first and the last ones.",
        f"Figures are of words as the treebank splits them, sent as tokens; {split_words(tokenizer, test)} of the test "
        f"part's {words:,} are more than one for the tokenizer, and have the tag of their first piece. Text that is "
        "sent as it is written is split by rules that only come near the treebank's.",
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError when the test part is missing."""
    assert isinstance(module, TaggerModule)
    tokenizer, tags = module.vocabulary.tokenizer, module.tags.coarse
    parts = {"train": find(TRAIN), "dev": find(DEV), "test": find(TEST)}
    uses = {"train": "trained on", "dev": "chose the checkpoint", "test": "measured on, chose nothing"}
    train, dev, test = (read_sentences(part.path) for part in parts.values())
    return Release(
        name=name,
        task="tag",
        description=DESCRIPTION if settings.bidirectional else LIVE_DESCRIPTION,
        servable=servable(module.network, module.vocabulary, module.characters, tags),
        data=(
            *(parts[part].used_as(use) for part, use in uses.items()),
            find(VECTORS).used_as("vectors of words, as they are"),
        ),
        licence=LICENCE,
        limits=_limits(settings, tokenizer, test),
        measure=partial(figures, name, train, {"test": test, "dev": dev}),
        networks=(module.network.recurrent.network,),
        text=TextReader(tokenizer.to_str(), settings.max_length, UNKNOWN, characters=module.characters),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
