"""The kind of recipe `charlm`: a text in, a published model of its next characters out.

It knows which text, and how the network is described and measured. Invariant: weights come from the first 85.5 % of the
text, the checkpoint from the next 4.5 %; the last 10 %, which is known as its validation part, is read only to measure
the finished model through the service. There is no test part.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service import contract, tensors
from training.datasets import find
from training.evaluate import ask
from training.export.graph import Array, Servable
from training.recipe import Kind, Release, TextReader
from training.tasks.charlm.module import UNKNOWN, CharModule, Corpus, Settings, make_tokenizer
from training.tasks.charlm.network import CharNetwork

TEXT = "tiny_shakespeare/input.txt"
MAX_LENGTH = 4096  # characters of one item
CHARACTERS_PER_CALL = 2048
LICENCE = "as the project; trained on works of Shakespeare, which are in the public domain"
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


def ask_probabilities(url: str, model: str, text: str, characters: str) -> Array:
    """Return how likely the model found each character of `text` but the first, one session through `/v1/step`.

    Shapes: returns [characters of the text - 1].
    """
    places = {character: place for place, character in enumerate(characters)}
    token: dict[str, str] = {}
    found: list[Array] = []
    for start in range(0, len(text) - 1, CHARACTERS_PER_CALL):
        following = text[start + 1 : start + 1 + CHARACTERS_PER_CALL]
        item = {"text": text[start : start + len(following)], **token}
        (result,) = ask(url, "/v1/step", "items", [item], model=model, **{"return": "all"})
        token = {"state": result["state"]}
        probabilities = np.array(result["outputs"]["probabilities"])
        found.append(probabilities[np.arange(len(following)), [places[character] for character in following]])
    return np.concatenate(found)


def nats(probabilities: Array) -> float:
    """Return the mean negative logarithm."""
    return float(-np.log(probabilities).mean())


def frequencies(text: str, characters: str) -> tuple[Array, Array]:
    """Count how likely each character is, and how likely after each other character; 1 is added to every count.

    Shapes: returns [characters] and, by the character before, [characters, characters].
    """
    places = {character: place for place, character in enumerate(characters)}
    ids = np.array([places[character] for character in text])
    single = np.bincount(ids, minlength=len(characters)) + 1.0
    pairs = np.ones((len(characters), len(characters)))
    np.add.at(pairs, (ids[:-1], ids[1:]), 1)
    return single / single.sum(), pairs / pairs.sum(axis=1, keepdims=True)


def figures(corpus: Corpus, model: str, url: str) -> tuple[contract.Metric, ...]:
    """Return the nats per character of the whole validation part beside those of two tables of frequencies."""
    text, characters = corpus.validation, corpus.characters
    value = round(nats(ask_probabilities(url, model, text, characters)), 5)
    single, pairs = frequencies(corpus.held_out + corpus.train, characters)
    ids = np.array([characters.index(character) for character in text])
    method = "frequencies of {} in the first 90 %"
    floors = {
        "validation_nats_per_character": (nats(pairs[ids[:-1], ids[1:]]), method.format("pairs of characters")),
        "validation_nats_per_character_vs_single": (nats(single[ids[1:]]), method.format("single characters")),
    }
    return tuple(
        contract.Metric(name=name, value=value, floor=round(floor, 5), floor_method=how)
        for name, (floor, how) in floors.items()
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, CharModule)
    corpus, characters = module.corpus, module.corpus.characters
    return Release(
        name=name,
        task="step",
        description="Says after each character of a text, in Shakespeare's English, how likely each next one is.",
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
    )


KIND = Kind(Settings, ("val_loss",), prepare, release)
