"""What is worth a picture of a character model: which characters surprise it, and what its carried state is worth.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: the text is read from its start and at even places, never chosen by its surprise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from service.contract.manifest import Manifest
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_surprise

Values = npt.NDArray[np.float64]

EXCERPT = 480  # characters whose surprise is drawn
SPANS, SPAN, POINTS = 96, 1000, 16  # texts and their characters for the mean surprise, and points of its curve
TEXTS_PER_CALL = 8  # an answer of 1,000 rows of probabilities is about a megabyte of JSON


def report_characters(url: str, manifest: Manifest, text: str) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of next characters: what surprises it in `text`, and how much the carried state is worth."""
    labels = manifest.outputs[0].labels
    assert labels is not None
    page = _nats(url, manifest, [text[:EXCERPT]], labels)[0]
    starts = range(0, len(text) - SPAN, max((len(text) - SPAN) // SPANS, 1))
    spans = np.array(_nats(url, manifest, [text[start : start + SPAN] for start in starts], labels))
    edges = np.unique(np.geomspace(1, SPAN - 1, POINTS).astype(int))
    by_age = np.array([spans[:, low:high].mean() for low, high in pairwise(edges)])
    caption = (
        f"Left, the first lines of the validation part: pale characters were expected, dark ones not. "
        f"Right, the mean over {len(spans)} places, by how many characters the state had read."
    )
    return (Picture("surprise", caption, draw_surprise(text[:EXCERPT], page, edges[:-1], by_age)),), ()


def _nats(url: str, manifest: Manifest, texts: Sequence[str], labels: Sequence[str]) -> list[Values]:
    """Return the surprise of each character after the first, 0 for the first. Units: nats."""
    place = {label: index for index, label in enumerate(labels)}
    options = {"model": manifest.name, "return": "all"}
    found = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        asked = texts[start : start + TEXTS_PER_CALL]
        for text, result in zip(
            asked, ask(url, "/v1/step", "items", [{"text": text} for text in asked], **options), strict=True
        ):
            probabilities = np.array(result["outputs"][manifest.outputs[0].name])
            given = probabilities[np.arange(len(text) - 1), [place[character] for character in text[1:]]]
            found.append(np.concatenate([[0.0], -np.log(given)]))
    return found
