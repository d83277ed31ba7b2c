"""The kind of recipe `charlm`: a text in, a published model of its next characters out.

It knows which text, and how the network is described. Invariant: weights come from the first 85.5 % of the text, the
checkpoint from the next 4.5 %; the last 10 %, which is known as its validation part, is read only to measure the
finished model through the service. There is no test part.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service.contract import tensors
from service.contract.parts import Feedback
from training.datasets import find
from training.export.graph import Array, Servable
from training.recipe import Kind, Release, TextReader
from training.tasks.characters import UNKNOWN, make_tokenizer
from training.tasks.charlm.evaluation import figures
from training.tasks.charlm.module import CharModule, Corpus, Settings
from training.tasks.charlm.network import CharNetwork

TEXT = "tiny_shakespeare/input.txt"
MAX_LENGTH = 4096  # characters of one item
FIRST = "\n"  # what is written from nothing begins behind a line break, as each speech does
LICENCE = "Apache-2.0, as the project; trained on works of Shakespeare, which are in the public domain"
LIMITS = (
    "Shakespeare's plays as one old edition prints them are all it was trained on: it is an example of a stepping "
    "model, not a writer, and no guide to today's English.",
    "It knows 65 characters; any other is read as unknown, and never predicted.",
    "Its figure is on the text's validation part, because there is no test part. Neither weights nor checkpoint were "
    "chosen there, but dropout, the rate of unknown characters, weight decay, epochs, and which part chooses the "
    "checkpoint were, among three tries (docs/training-log.md).",
)


def read_corpus() -> Corpus:
    """Read the text in its parts. Raises: DataError."""
    return Corpus.of(find(TEXT).path.read_text(encoding="utf-8"))


def prepare(settings: Settings, seed: int) -> CharModule:
    """Return a module on the text. Raises: DataError."""
    return CharModule(settings, read_corpus(), seed)


def servable(network: CharNetwork, characters: tuple[str, ...]) -> Servable:
    """Return the network with its signature; the characters that it can predict are the output's labels."""

    def draw(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(0, len(characters) + 1, length, dtype=np.int32)

    axes: tensors.Shape = ("batch", "time", len(characters))
    return Servable(
        network,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time")),
        (tensors.Tensor(name="probabilities", dtype="float32", shape=axes, labels=characters),),
        draw,
        states=network.recurrent.states,
        streamable=True,
        row_lengths=(1, 2, 3, 5, 8, 13, 21, 100),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, CharModule)
    corpus, characters = module.corpus, module.corpus.characters
    return Release(
        name=name,
        task="step",
        description="Says after each character of a text, in Shakespeare's English, how likely each next one is, and "
        "writes such text.",
        servable=servable(module.network, tuple(characters)),
        data=(
            find(TEXT).used_as(
                f"first {len(corpus.held_out):,} characters chose the checkpoint, next {len(corpus.train):,} trained "
                f"on, last {len(corpus.validation):,} (the validation part) measured on"
            ),
        ),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(figures, corpus, name),
        networks=(module.network.recurrent.network,),
        text=TextReader(make_tokenizer(characters).to_str(), MAX_LENGTH, UNKNOWN),
        feedback=Feedback(
            kind="categorical", output="probabilities", form="probabilities", start=characters.index(FIRST)
        ),
    )


KIND = Kind(Settings, ("val_loss",), prepare, release)
