"""The kind of recipe `translate`: pairs of sentences in, a published translator out.

It knows the corpora, and how the network is described. Invariant: weights come from train, the checkpoint and every
choice from dev; test is read only to measure the finished model through the service.
"""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
import numpy as np

from service.contract import tensors
from service.contract.parts import Feedback
from training.datasets import find
from training.export.graph import Array, Servable, Starting
from training.recipe import Kind, Release, TextReader
from training.report.card import networks_sentence
from training.tasks.translate.evaluation import BEAMS, by_sentence, figures, signatures
from training.tasks.translate.module import Seen, Settings, TranslateModule
from training.tasks.translate.network import Decoder, Encoder, Translator
from training.tasks.translate.text import END_ID, START_ID, UNKNOWN, Pair
from training.tasks.writer import FIGURES

LICENCE = "Apache-2.0, as the project; trained on {}"
WRITTEN = 512  # tokens of a text that is given, as the beginning of a translation
USES = {"train": "trained on", "dev": "chose the checkpoint", "test": "measured on, chose nothing"}
LAYERS = 2  # of the decoder


@dataclass(frozen=True)
class Corpus:
    """Pairs of sentences: the files of its parts by name, what they are, and how they are measured.

    `tokenized` sentences have their words split, and are compared as they are.
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]
    languages: tuple[str, str]
    licence: str
    limits: tuple[str, ...]
    tokenized: bool

    def read(self, part: str) -> list[Pair]:
        """Read a part. Raises: DataError."""
        return read_pairs(*(find(name).path for name in self.parts[part]))


CORPORA = {
    "tatoeba": Corpus(
        name="tatoeba_eng_fra",
        parts={part: (f"tatoeba_eng_fra/{part}.tsv.gz",) for part in USES},
        languages=("English", "French"),
        licence="sentences of Tatoeba (tatoeba.org, by way of manythings.org/anki; CC BY 2.0 France)",
        limits=(
            "Short everyday sentences are all it was trained on, six words on average: long sentences, names and terms "
            "that are not among them come out wrong, and numbers may.",
            "English does not say whether 'you' is tu or vous, nor who speaks to whom: it chooses one of the two, and "
            "one gender.",
            "It writes the plain space where French has a narrow one, before ! ? : ; and within quotation marks, and "
            "the straight apostrophe. References are spelt so, too, before they are compared.",
        ),
        tokenized=False,
    ),
    "multi30k": Corpus(
        name="multi30k",
        parts={
            part: tuple(f"multi30k/{file}.tok.{language}.gz" for language in ("en", "de"))
            for part, file in (("train", "train"), ("dev", "val"), ("test", "test2016"))
        },
        languages=("English", "German"),
        licence="Multi30k (Elliott et al., 2016), for non-commercial research and education alone",
        limits=(
            "Captions of photographs, in lower case and with their words split, are all it was trained on; it reads "
            "and writes such text.",
        ),
        tokenized=True,
    ),
}


def read_pairs(*files: Path) -> list[Pair]:
    """Read pairs: a line each, from one file with a tab between the two, or from two files."""
    columns = [gzip.decompress(file.read_bytes()).decode().rstrip("\n").split("\n") for file in files]
    rows = zip(*columns, strict=True) if len(columns) > 1 else (line.split("\t") for line in columns[0])
    return [(source, target) for source, target in rows]


def prepare(settings: Settings, seed: int) -> TranslateModule:
    """Return a module on the corpus. Raises: DataError."""
    corpus = CORPORA[settings.corpus]
    return TranslateModule(settings, Seen(corpus.read("train"), corpus.read("dev")), seed)


def servable(network: Translator) -> Servable:
    """Return the decoder with its signature, and the encoder as what its sessions begin with."""
    encoder, decoder = network.encoder, network.decoder
    hidden: tensors.Shape = (1, "batch", decoder.first.hidden_size)
    ids = decoder.table.num_embeddings
    carried = [f"{kind}{layer}" for layer in range(LAYERS) for kind in "hc"]
    return Servable(
        decoder,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time")),
        (
            tensors.Tensor(name="probabilities", dtype="float32", shape=("batch", "time", ids)),
            tensors.Tensor(name="attention", dtype="float32", shape=("batch", "time", "memory")),
        ),
        _draw(decoder),
        states=(
            *(tensors.State(input=name, output=f"{name}_out", dtype="float32", shape=hidden) for name in carried),
            tensors.State(input="memory", output=None, dtype="float32", shape=("batch", "memory", encoder.features)),
        ),
        streamable=True,
        float16_weights=True,
        start=_starting(encoder, hidden),
    )


def _starting(encoder: Encoder, hidden: tensors.Shape) -> Starting:
    made: dict[str, tensors.Shape] = {"h0": hidden, "c0": hidden, "memory": ("batch", "time", encoder.features)}
    graph = Servable(
        encoder,
        tensors.Tensor(name="source", dtype="int32", shape=("batch", "time")),
        tuple(tensors.Tensor(name=f"{name}_start", dtype="float32", shape=shape) for name, shape in made.items()),
        _draw(encoder),
        float16_weights=True,
    )
    return Starting(graph, {name: f"{name}_start" for name in made}, (encoder.recurrent.network,))


def _draw(part: Encoder | Decoder) -> Callable[[np.random.Generator, int], Array]:
    def draw(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(0, part.table.num_embeddings, length, dtype=np.int32)

    return draw


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release, its weights rounded to float16. Raises: DataError."""
    assert isinstance(module, TranslateModule)
    corpus = CORPORA[settings.corpus]
    source, target = corpus.languages
    network = copy.deepcopy(module.network).half().float()
    reader = networks_sentence([network.encoder.recurrent.network])
    train, test = corpus.read("train"), by_sentence(corpus.read("test"))
    return Release(
        name=name,
        task="translate",
        description=f"Translates {source} to {target}. A sentence is read by {reader}; what writes attends to all of "
        "it at every step.",
        servable=servable(network),
        data=tuple(find(file).used_as(use) for part, use in USES.items() for file in corpus.parts[part]),
        licence=LICENCE.format(corpus.licence),
        limits=(
            *corpus.limits,
            f"Figures are of {BEAMS} beams, against all references: {signatures(test, corpus.tokenized)}.",
        ),
        measure=partial(figures, name, f"{corpus.name}_test", train, test, corpus.tokenized),
        networks=(network.decoder.first.network.model_copy(update={"layers": LAYERS}),),
        text=TextReader(module.target.to_str(), WRITTEN, UNKNOWN),
        feedback=Feedback(kind="categorical", output="probabilities", form="probabilities", start=START_ID, end=END_ID),
        condition_text=TextReader(module.source.to_str(), module.train_part.longest_source, UNKNOWN),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
