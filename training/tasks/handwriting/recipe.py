"""The kind of recipe `handwriting`: handwritten words in, a model that writes texts out.

It knows which words, and how the network is described. Invariant: weights come from the training writers, the
checkpoint and every choice from the validation writers; test writers are read only to measure the finished model.
"""

from __future__ import annotations

from typing import NoReturn

import lightning

from service.errors import StartupError
from training.datasets import find
from training.recipe import Kind
from training.tasks.handwriting.data import WORDS, Part, Word, read_words, split
from training.tasks.handwriting.module import FIGURES, HandwritingModule, Settings


def read_parts() -> dict[Part, list[Word]]:
    """Read the words in their parts. Raises: DataError."""
    return split(read_words(find(WORDS).path))


def prepare(settings: Settings, seed: int) -> HandwritingModule:
    """Return a module on the words. Raises: DataError."""
    parts = read_parts()
    return HandwritingModule(settings, parts["train"], parts["validation"], seed)


def release(name: str, settings: Settings, module: lightning.LightningModule) -> NoReturn:
    """Raises: StartupError, for the service does not draw from mixtures yet."""
    raise StartupError(f"{name} is trained, but cannot be published: the service does not draw from mixtures yet")


KIND = Kind(Settings, FIGURES, prepare, release)
