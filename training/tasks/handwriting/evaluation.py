"""The handwriting model's figures beside their floors, on the test writers.

It knows the parts and the runs, and measures under PyTorch, for nothing is published yet. Invariant: a figure and its
floor come from the same points; what is written and the true ink beside it are of the same texts, read by the same
recogniser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import torch

from service.contract.provenance import Metric
from training.fit.runs import LAST, fit, run_folder
from training.recipe import Recipe
from training.tasks.handwriting.data import Points, Word
from training.tasks.handwriting.module import VALIDATED_ROWS, HandwritingModule, Settings
from training.tasks.handwriting.recipe import read_parts
from training.tasks.handwriting.recognizer import RECOGNIZER, ReaderModule
from training.tasks.handwriting.writing import write

WRITTEN = 200
BIAS = 1.0
FLOOR = "the same network, trained on the same words without their texts"


def figures(recipe: Recipe, runs_dir: Path, seed: int = 0) -> tuple[Metric, ...]:
    """Return the nats per point of the test writers, and how much of what the model writes, and they, is read right.

    The recipe's run must be finished. Its floor's and the recogniser's, `<recipe>-without-text` and
    `handwriting-recognizer` in `runs_dir`, are trained where they are not there yet, gone on with where interrupted.
    """
    model = trained(recipe, runs_dir, seed)
    recognizer = trained(RECOGNIZER, runs_dir, seed)
    floor = trained(without_text(recipe), runs_dir, seed)
    assert isinstance(model, HandwritingModule)
    assert isinstance(floor, HandwritingModule)
    assert isinstance(recognizer, ReaderModule)
    test = read_parts()["test"]
    chosen = spread(test, WRITTEN)
    texts = [word.text for word in chosen]
    written = write(model.network, model.paper, texts, BIAS, seed)
    return (
        Metric(
            name="test_nats_per_point",
            value=nats_per_point(model, test),
            floor=nats_per_point(floor, hidden(test)),
            floor_method=FLOOR,
        ),
        Metric(
            name=f"read_right_of_{WRITTEN}_written",
            value=share_read(recognizer, written, texts),
            floor=share_read(recognizer, [word.points for word in chosen], texts),
            floor_method="no floor but true ink: the same texts by the test writers",
        ),
        Metric(
            name="test_ink_read_right",
            value=share_read(recognizer, [word.points for word in test], [word.text for word in test]),
        ),
    )


def trained(recipe: Recipe, runs_dir: Path, seed: int) -> lightning.LightningModule:
    """Return the recipe's trained module, of its run in `runs_dir` if there is one."""
    begun = (run_folder(runs_dir, recipe.name, seed) / LAST).is_file()
    return fit(recipe, seed=seed, resume=begun, runs_dir=runs_dir).module


def without_text(recipe: Recipe) -> Recipe:
    """Return the recipe of the same network that is told no text."""

    def prepare(settings: Settings, seed: int) -> HandwritingModule:
        parts = read_parts()
        return HandwritingModule(settings, hidden(parts["train"]), hidden(parts["validation"]), seed)

    return replace(recipe, name=f"{recipe.name}-without-text", kind=replace(recipe.kind, prepare=prepare))


def hidden(words: Sequence[Word]) -> list[Word]:
    """Return the words without what they say."""
    return [replace(word, text="") for word in words]


def spread(words: Sequence[Word], count: int) -> list[Word]:
    """Return so many words of two letters or more, from even places."""
    long = [word for word in words if len(word.text) > 1 and word.text.isalpha()]
    return [long[place] for place in np.linspace(0, len(long) - 1, count).round().astype(int)]


@torch.no_grad()
def nats_per_point(module: HandwritingModule, words: Sequence[Word]) -> float:
    """Return the mean over all points of the words."""
    losses = [module.losses(batch)[0] for batch in module.paper.batches(words, VALIDATED_ROWS)]
    return float(torch.cat(losses).mean())


def share_read(recognizer: ReaderModule, rows: Sequence[Points], texts: Sequence[str]) -> float:
    """Return the share of rows that are read as their texts, every character right."""
    return float(np.mean([read == text for read, text in zip(recognizer.read(rows), texts, strict=True)]))
