"""The kind of recipe `handwriting`: handwritten words in, a model that writes texts out.

It knows which words, and how the network is described. Invariant: weights come from the training writers, the
checkpoint and every choice from the validation writers; test writers are read only to measure the finished model.
"""

from __future__ import annotations

from functools import partial

import lightning
import numpy as np

from service.contract import tensors
from service.contract.parts import Mixture
from training.datasets import find
from training.export.graph import Array, Servable, Starting
from training.networks.recurrent import Recurrent
from training.recipe import Kind, Release, TextReader
from training.tasks.characters import UNKNOWN, make_tokenizer
from training.tasks.handwriting.data import WORDS, read_parts
from training.tasks.handwriting.evaluation import BIAS, WRITTEN, figures
from training.tasks.handwriting.mixture import parameters
from training.tasks.handwriting.module import FIGURES, HandwritingModule, Settings
from training.tasks.handwriting.network import POINT, HandwritingNetwork

LICENCE = (
    "Apache-2.0, as the project; trained on words of UNIPEN (train_r01_v07, part sta), which are CC BY 4.0 on Zenodo; "
    "the CD of 1999 that they are from says research use"
)
LIMITS = (
    "Single English words are all it was trained on, of 24 writers: it writes no sentence, and of a rare pair of "
    "letters it may make a scrawl.",
    f"What is read right: {WRITTEN} words of two letters or more, at even places among the test writers', each written "
    f"once at bias {BIAS:g}. True ink is the same words by these writers; how well it is read depends on the writer.",
    "It writes as somebody of these 24, who is drawn with the first points, and never as somebody who is named.",
    "Nats are of density in millimetres, of offset and end of stroke; they depend on how the points were thinned, so "
    "compare them only with figures of the same preparation.",
    "The recogniser that reads what is written was trained on the ink of the same 24 writers. It has no list of words, "
    "but train holds all but 8 of the test writers' texts, and what letters follow each other it may have learned.",
)


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


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release. Raises: DataError."""
    assert isinstance(module, HandwritingModule)
    network, paper = module.network, module.paper
    first = network.layers[0]
    assert isinstance(first, Recurrent)
    longest = max(len(word.text) for word in module.train_part)
    return Release(
        name=name,
        task="step",
        description="Writes a word by hand, point by point. A window moves over the text as the pen moves over the "
        "paper. Points are offsets in millimetres.",
        servable=servable(network),
        data=(find(WORDS).used_as("24 writers trained on, 4 chose the checkpoint, 4 measured on"),),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(figures, name, settings),
        networks=(first.network.model_copy(update={"layers": settings.layers}),),
        feedback=Mixture(
            kind="mixture",
            output="mixture",
            components=network.components,
            start=(0.0, 0.0, 0.0),
            finished="end",
        ),
        condition_text=TextReader(make_tokenizer(paper.characters).to_str(), longest, UNKNOWN),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
