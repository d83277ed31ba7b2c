"""What is worth a picture of a model that reads text: what it mixes up, whether its scores can be trusted.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: all texts of a part are asked; the mistakes shown are those of the highest score.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from service.contract import Manifest
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_by_share, draw_confusion, draw_reliability, draw_surprise

Values = npt.NDArray[np.float64]

SHARES = np.linspace(0.1, 1.0, 10)
MISTAKES = 6
LONGEST_SHOWN = 160  # characters
EXCERPT = 480  # characters whose surprise is drawn
SPANS, SPAN, POINTS = 96, 1000, 16  # texts and their characters for the mean surprise, and points of its curve
TEXTS_PER_CALL = 8  # an answer of 1,000 rows of probabilities is about a megabyte of JSON


def report_classifier(
    url: str, manifest: Manifest, texts: Sequence[str], truth: Sequence[int], part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of `/v1/sentiment`: `truth` are indices of its labels, `part` names the data."""
    labels = _labels(manifest)
    results = ask(url, "/v1/sentiment", "inputs", texts, model=manifest.name, scores="all")
    scores = np.array([[result["scores"][label] for label in labels] for result in results])
    return _pictures(scores, truth, labels, part), (_mistakes(texts, scores, truth, labels, part),)


def report_live_classifier(
    url: str, manifest: Manifest, texts: Sequence[str], truth: Sequence[int], part: str
) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a step model that scores labels after every token: as for a whole text, and while it is read."""
    labels = _labels(manifest)
    items = [{"text": text} for text in texts]
    results = ask(url, "/v1/step", "items", items, model=manifest.name, **{"return": "all"})
    read = [np.array(result["outputs"][manifest.outputs[0].name]) for result in results]
    last = np.array([each[-1] for each in read])
    right = [
        np.mean(
            [
                each[max(round(share * len(each)), 1) - 1].argmax() == label
                for each, label in zip(read, truth, strict=True)
            ]
        )
        for share in SHARES
    ]
    caption = f"Accuracy on the {part} when only the first part of each text has been read."
    while_reading = Picture("while-reading", caption, draw_by_share(SHARES, np.array(right)))
    mistakes = _mistakes(texts, last, truth, labels, part)
    return (*_pictures(last, truth, labels, part), while_reading), (mistakes,)


def _labels(manifest: Manifest) -> tuple[str, ...]:
    labels = manifest.outputs[0].labels
    assert labels is not None
    return labels


def _pictures(scores: Values, truth: Sequence[int], labels: Sequence[str], part: str) -> tuple[Picture, ...]:
    answered = scores.argmax(axis=1)
    counts = np.zeros((len(labels), len(labels)))
    np.add.at(counts, (np.array(truth), answered), 1)
    return (
        Picture("confusion", f"What was answered for which truth: {part}.", draw_confusion(counts, labels)),
        Picture(
            "reliability",
            f"How often an answer of a score is right: {part}. On the dotted line a score of 0.9 is right nine "
            "times in ten; below it the model is too sure of itself.",
            draw_reliability(scores.max(axis=1), answered == np.array(truth)),
        ),
    )


def _mistakes(texts: Sequence[str], scores: Values, truth: Sequence[int], labels: Sequence[str], part: str) -> Table:
    answered = scores.argmax(axis=1)
    wrong = np.flatnonzero(answered != np.array(truth))
    worst = wrong[np.argsort(-scores[wrong].max(axis=1))][:MISTAKES]
    rows = tuple(
        (_shown(texts[place]), labels[truth[place]], labels[answered[place]], f"{scores[place].max():.3f}")
        for place in worst
    )
    return Table(caption=f"The surest mistakes: {part}.", header=("text", "true", "answered", "score"), rows=rows)


def _shown(text: str) -> str:
    short = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    return short.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def report_characters(url: str, manifest: Manifest, text: str) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on a model of next characters: what surprises it in `text`, and how much the carried state is worth."""
    labels = _labels(manifest)
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
