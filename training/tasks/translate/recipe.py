"""The kind of recipe `translate`: pairs of sentences in, a published translator out.

It knows the corpora, and how the network is described. Invariant: weights come from train, the checkpoint and every
choice from dev; test is read only to measure the finished model through the service.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import lightning

from training.datasets import find
from training.recipe import Kind, Release
from training.tasks.translate.module import FIGURES, Corpus, Settings, TranslateModule
from training.tasks.translate.text import Pair


def read_pairs(*files: Path) -> list[Pair]:
    """Read pairs: a line each, from one file with a tab between the two, or from two files."""
    columns = [gzip.decompress(file.read_bytes()).decode().rstrip("\n").split("\n") for file in files]
    rows = zip(*columns, strict=True) if len(files) > 1 else (line.split("\t") for line in columns[0])
    return [(source, target) for source, target in rows]


PARTS = {
    "tatoeba": {part: (f"tatoeba_eng_fra/{part}.tsv.gz",) for part in ("train", "dev", "test")},
    "multi30k": {
        part: tuple(f"multi30k/{file}.tok.{language}.gz" for language in ("en", "de"))
        for part, file in (("train", "train"), ("dev", "val"), ("test", "test2016"))
    },
}


def prepare(settings: Settings, seed: int) -> TranslateModule:
    """Return a module on the corpus. Raises: DataError."""
    parts = PARTS[settings.corpus]
    train, dev = (read_pairs(*(find(name).path for name in parts[part])) for part in ("train", "dev"))
    return TranslateModule(settings, Corpus(train, dev), seed)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> Release:
    raise NotImplementedError


KIND = Kind(Settings, FIGURES, prepare, release)
