"""The kind of recipe `caption`: images' vectors with captions in, a published captioner out.

It knows the files, and how the network is described. Invariant: weights come from train, the checkpoint and every
choice from dev; test is read only to measure the finished model through the service.
"""

from __future__ import annotations

import copy
import gzip
from collections import defaultdict
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import torch

from service.contract import tensors
from service.contract.parts import Feedback
from training.datasets import find
from training.export.graph import Array, Servable, Starting
from training.recipe import Kind, Release, TextReader
from training.tasks.caption.evaluation import BEAMS, LONGEST, figures
from training.tasks.caption.module import CaptionModule, Settings
from training.tasks.caption.network import Captioner
from training.tasks.caption.text import END_ID, START, UNKNOWN, Image
from training.tasks.writer import FIGURES

VECTORS, CAPTIONS = "flickr8k/vectors256.npz", "flickr8k/captions.tsv.gz"
USES = {"train": "trained on", "dev": "chose the checkpoint", "test": "measured on, chose nothing"}
LICENCE = (
    "Apache-2.0, as the project; trained on Flickr8k (Hodosh et al., 2013), for non-commercial research and education "
    "alone"
)
LIMITS = (
    "It reads vectors, not images, and of one kind alone: EfficientNet-Lite0 with ImageNet's weights, its 1,280 "
    "features averaged over the image, reduced to 256 by the principal components of Flickr8k's train part, and "
    "divided by the first component's standard deviation. Of any other vector it writes as readily, and nonsense.",
    "People and dogs, in the open, are most of what it saw. It names what is frequent there: colours, numbers of "
    "people and actions are often wrong.",
    f"Figures are of {BEAMS} beams, at most {LONGEST} words, against all five captions of people's, in lower case and "
    "without punctuation; BLEU-n is the geometric mean of the precisions up to n, times the brevity penalty.",
)


def read_part(part: str) -> list[Image]:
    """Read the images of the official part. Raises: DataError."""
    return read_images(find(VECTORS).path, find(CAPTIONS).path, find(_names(part)).path)


def _names(part: str) -> str:
    return f"flickr8k/{part}.txt"


def read_images(vectors: Path, captions: Path, names: Path) -> list[Image]:
    """Read the images that `names` has, a line each, with their vectors and captions."""
    written: defaultdict[str, list[str]] = defaultdict(list)
    for line in gzip.decompress(captions.read_bytes()).decode().splitlines():
        place, text = line.split("\t")
        written[place.rpartition("#")[0]].append(text)
    with np.load(vectors) as held:
        by_name = dict(zip(held["names"].tolist(), torch.from_numpy(held["vectors"]).float(), strict=True))
    return [Image(name, by_name[name], tuple(written[name])) for name in names.read_text().split()]


def prepare(settings: Settings, seed: int) -> CaptionModule:
    """Return a module on the images. Raises: DataError."""
    return CaptionModule(settings, read_part("train"), read_part("dev"), seed)


def servable(network: Captioner) -> Servable:
    """Return the writer with its signature, and the viewer as what its sessions begin with."""
    viewer, writer = network.viewer, network.writer
    features, image = viewer.see.in_features, viewer.see.out_features
    hidden: tensors.Shape = (1, "batch", writer.recurrent.hidden_size)
    made: dict[str, tensors.Shape] = {"h": hidden, "c": hidden, "image": ("batch", image)}

    def draw_vector(rng: np.random.Generator, length: int) -> Array:
        return rng.normal(size=(length, features)).astype(np.float32)

    def draw_words(rng: np.random.Generator, length: int) -> Array:
        return rng.integers(0, writer.table.num_embeddings, length, dtype=np.int32)

    start = Servable(
        viewer,
        tensors.Tensor(name="vector", dtype="float32", shape=("batch", features)),
        tuple(tensors.Tensor(name=f"{name}_start", dtype="float32", shape=shape) for name, shape in made.items()),
        draw_vector,
        row_lengths=(1,) * 8,
        float16_weights=True,
    )
    return Servable(
        writer,
        tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time")),
        (tensors.Tensor(name="probabilities", dtype="float32", shape=("batch", "time", writer.words)),),
        draw_words,
        states=(
            *(tensors.State(input=name, output=f"{name}_out", dtype="float32", shape=hidden) for name in "hc"),
            tensors.State(input="image", output=None, dtype="float32", shape=made["image"]),
        ),
        streamable=True,
        float16_weights=True,
        start=Starting(start, {name: f"{name}_start" for name in made}),
    )


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    """Return the trained module as a release, its weights rounded to float16. Raises: DataError."""
    assert isinstance(module, CaptionModule)
    network = copy.deepcopy(module.network).half().float()
    tokenizer = module.tokenizer
    uses = {VECTORS: "the images of all parts", CAPTIONS: "the captions of all parts"}
    uses |= {_names(part): use for part, use in USES.items()}
    return Release(
        name=name,
        task="step",
        description="Writes a caption of an image, word by word. The image comes as a vector of EfficientNet-Lite0, "
        "which makes the first states and is seen at every step.",
        servable=servable(network),
        data=tuple(find(file).used_as(use) for file, use in uses.items()),
        licence=LICENCE,
        limits=LIMITS,
        measure=partial(figures, name, "flickr8k_test", read_part("train"), read_part("test")),
        networks=(network.writer.recurrent.network,),
        text=TextReader(tokenizer.to_str(), LONGEST, UNKNOWN),
        feedback=Feedback(
            kind="categorical",
            output="probabilities",
            form="probabilities",
            start=tokenizer.token_to_id(START),
            end=END_ID,
        ),
    )


KIND = Kind(Settings, FIGURES, prepare, release)
