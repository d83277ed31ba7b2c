"""The kind of recipe `handwriting`: handwritten words in, a model that writes texts out.

It knows which words, and how the network is described. Invariant: weights come from the training writers, the
checkpoint and every choice from the validation writers; test writers are read only to measure the finished model.
"""

from __future__ import annotations

from typing import NoReturn

import lightning
import numpy as np

from service.contract import tensors
from service.errors import StartupError
from training.datasets import find
from training.export.graph import Array, Servable, Starting
from training.recipe import Kind
from training.tasks.handwriting.data import WORDS, Part, Word, read_words, split
from training.tasks.handwriting.mixture import parameters
from training.tasks.handwriting.module import FIGURES, HandwritingModule, Settings
from training.tasks.handwriting.network import POINT, HandwritingNetwork


def read_parts() -> dict[Part, list[Word]]:
    """Read the words in their parts. Raises: DataError."""
    return split(read_words(find(WORDS).path))


def prepare(settings: Settings, seed: int) -> HandwritingModule:
    """Return a module on the words. Raises: DataError."""
    parts = read_parts()
    return HandwritingModule(settings, parts["train"], parts["validation"], seed)


def servable(network: HandwritingNetwork) -> Servable:
    """Return the network with its signature, a step a run, and the text that its sessions begin with."""
    characters = network.characters
    shapes: tuple[tensors.Shape, ...] = (("batch", parameters(network.components)), ("batch", 1))

    def draw_point(rng: np.random.Generator, length: int) -> Array:
        ends = rng.random((length, 1)) < 0.1
        return np.concatenate([rng.normal(size=(length, 2)), ends], 1, dtype=np.float32)

    def draw_text(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(0, characters + 1, length, dtype=np.int32)

    text = Servable(
        network.alphabet,
        tensors.Tensor(name="text", dtype="int32", shape=("batch", "time")),
        (tensors.Tensor(name="memory_start", dtype="float32", shape=("batch", "time", characters)),),
        draw_text,
    )
    memory = tensors.State(input="memory", output=None, dtype="float32", shape=("batch", "memory", characters))
    return Servable(
        network,
        tensors.Tensor(name="point", dtype="float32", shape=("batch", POINT)),
        tuple(
            tensors.Tensor(name=name, dtype="float32", shape=shape)
            for name, shape in zip(("mixture", "end"), shapes, strict=True)
        ),
        draw_point,
        states=(*network.states, memory),
        streamable=True,
        row_lengths=(1,) * 8,
        start=Starting(text, {"memory": "memory_start"}),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> NoReturn:
    """Raises: StartupError, for the service does not draw from mixtures yet."""
    raise StartupError(f"{name} is trained, but cannot be published: the service does not draw from mixtures yet")


KIND = Kind(Settings, FIGURES, prepare, release)
