"""What is worth a picture of a model that reads text: what it mixes up, whether its scores can be trusted.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: all texts of a part are asked; the mistakes shown are those of the highest score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.contract.manifest import Manifest
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_by_share, draw_confusion, draw_reliability

Values = npt.NDArray[np.float64]

SHARES = np.linspace(0.1, 1.0, 10)
MISTAKES = 6
LONGEST_SHOWN = 160  # characters


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
    while_reading = Picture("while-reading", caption, draw_by_share(SHARES, np.array(right), "read, % of the words"))
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
