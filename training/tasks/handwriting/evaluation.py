"""The handwriting model's figures beside their floors, on the test writers.

It knows the parts, how to ask a running service, and the two networks that judge: the floor, which is told no text, and
the recogniser. Their runs lie in `RUNS_DIR`; they are trained where they are not there yet, gone on with where
interrupted.

Invariant: a figure and its floor come from the same points; what is written and the true ink beside it are of the same
texts, read by the same recogniser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import lightning
import numpy as np
import torch

from service.contract.provenance import Metric
from service.errors import StartupError
from training.evaluate import ask
from training.fit.job import LAST
from training.fit.runs import RUNS_DIR, fit, run_folder
from training.recipe import Kind, Recipe, Run
from training.tasks.handwriting.data import MAX_POINTS, Points, Word, read_parts
from training.tasks.handwriting.mixture import nats
from training.tasks.handwriting.module import FIGURES, VALIDATED_ROWS, HandwritingModule, Settings
from training.tasks.handwriting.recognizer import RECOGNIZER, ReaderModule

WRITTEN = 200
BIAS = 2.0
FLOOR = "the same network, trained on the same words without their texts"
FLOOR_RUN = Run(epochs=12, monitor="val_nats", mode="min", patience=8, gradient_norm=1.0, precision="bf16-mixed")


def figures(model: str, settings: Settings, url: str) -> tuple[Metric, ...]:
    """Return the nats per point of the test writers, and how much of what the model writes, and they, is read right."""
    floor, recognizer = trained(without_text(settings)), trained(RECOGNIZER)
    assert isinstance(floor, HandwritingModule)
    assert isinstance(recognizer, ReaderModule)
    test = read_parts()["test"]
    chosen = spread(test, WRITTEN)
    texts, ink = [word.text for word in chosen], [word.points for word in chosen]
    return (
        Metric(
            name="test_nats_per_point",
            value=round(float(np.mean(ask_nats(url, model, test))), 5),
            floor=round(nats_per_point(floor, hidden(test)), 5),
            floor_method=FLOOR,
        ),
        Metric(
            name=f"read_right_of_{WRITTEN}_written",
            value=share_read(recognizer, write(url, model, texts, BIAS), texts),
        ),
        Metric(name="true_ink_read_right", value=share_read(recognizer, ink, texts)),
    )


def ask_nats(url: str, model: str, words: Sequence[Word]) -> np.ndarray:
    """Return the nats of every point of the words, as a session that is told the text foresees them.

    Shapes: [points]. Units: of a density in millimetres.
    """
    items = [{"begin": {"text": word.text}, "inputs": word.points[:-1].tolist()} for word in words]
    results = ask(url, "/v1/step", "items", items, model=model, **{"return": "all"})
    raw = np.concatenate([np.array(result["outputs"]["mixture"], np.float32) for result in results])
    points = np.concatenate([word.points for word in words])
    return nats(torch.from_numpy(raw), torch.from_numpy(points)).numpy()


def write(url: str, model: str, texts: Sequence[str], bias: float) -> list[Points]:
    """Return the points that the service draws for each text; the seed of each is its place. Units: millimetres."""
    options = {"model": model, "max_steps": MAX_POINTS, "bias": bias}
    drawn = [
        ask(url, "/v1/generate", "items", [{"condition": {"text": text}}], seed=seed, **options)
        for seed, text in enumerate(texts)
    ]
    return [
        np.array(choice["points"], np.float32).reshape(-1, 3) for (result,) in drawn for choice in result["choices"]
    ]


def trained(recipe: Recipe, seed: int = 0, runs_dir: Path = RUNS_DIR) -> lightning.LightningModule:
    """Return the recipe's trained module, of its run in `runs_dir` if there is one."""
    begun = (run_folder(runs_dir, recipe.name, seed) / LAST).is_file()
    return fit(recipe, seed=seed, resume=begun, runs_dir=runs_dir).module


def without_text(settings: Settings) -> Recipe:
    """Return the recipe of the same network that is told no text."""
    kind = Kind(Settings, FIGURES, _prepare_untold, _refuse)
    return Recipe("handwriting-without-text", "foresees the pen without the text", kind, FLOOR_RUN, settings)


def _prepare_untold(settings: Settings, seed: int) -> HandwritingModule:
    parts = read_parts()
    return HandwritingModule(settings, hidden(parts["train"]), hidden(parts["validation"]), seed)


def _refuse(name: str, settings: Settings, module: lightning.LightningModule) -> NoReturn:
    raise StartupError(f"{name} is a floor, and is not published")


def hidden(words: Sequence[Word]) -> list[Word]:
    """Return the words without what they say."""
    return [replace(word, text="") for word in words]


def spread(words: Sequence[Word], count: int) -> list[Word]:
    """Return so many words of two letters or more, from even places."""
    long = [word for word in words if len(word.text) > 1 and word.text.isalpha()]
    return [long[place] for place in np.linspace(0, len(long) - 1, count).round().astype(int)]


@torch.no_grad()
def nats_per_point(module: HandwritingModule, words: Sequence[Word]) -> float:
    """Return the mean over all points of the words. Units: of a density in millimetres."""
    losses = [module.losses(batch)[0] for batch in module.paper.batches(words, VALIDATED_ROWS)]
    return float(torch.cat(losses).mean()) + 2 * math.log(module.paper.scale)


def share_read(recognizer: ReaderModule, rows: Sequence[Points], texts: Sequence[str]) -> float:
    """Return the share of rows that are read as their texts, every character right."""
    return float(np.mean([read == text for read, text in zip(recognizer.read(rows), texts, strict=True)]))
