"""The character model's figures beside their floors, on the validation part of its text.

It knows the text's parts, and how to ask a running service character by character; what serves there it does not.

Invariant: a figure and its floors come from the same characters in the same run.
"""

from __future__ import annotations

import numpy as np

from service.contract.provenance import Metric
from training.evaluate import ask
from training.export.graph import Array
from training.tasks.charlm.module import Corpus

CHARACTERS_PER_CALL = 2048


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


def figures(corpus: Corpus, model: str, url: str) -> tuple[Metric, ...]:
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
        Metric(name=name, value=value, floor=round(floor, 5), floor_method=how) for name, (floor, how) in floors.items()
    )
