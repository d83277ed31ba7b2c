"""Labels in answers: the likeliest, with its score, or all.

It knows tensors and arrays, not what is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from service.contract.tensors import Tensor
from service.model.onnx_session import Array

DIGITS = 6  # of a score
Wanted = Annotated[Literal["top", "all"], Field(description="all adds the score of every label")]


def show_label(output: Tensor, scores: Array, wanted: Wanted) -> dict[str, Any]:
    """Return what JSON shows of the scores that a model gave to its labels. Shapes: scores [labels]."""
    assert output.labels is not None
    best = int(scores.argmax())
    result: dict[str, Any] = {"label": output.labels[best], "score": round(float(scores[best]), DIGITS)}
    if wanted == "all":
        rounded = [round(score, DIGITS) for score in scores.tolist()]
        result["scores"] = dict(zip(output.labels, rounded, strict=True))
    return result


def add_labels(results: Sequence[dict[str, Any]], output: Tensor, scores: Array, wanted: Wanted) -> None:
    """Add the same to each result, far cheaper than one by one. Shapes: scores [results, labels]."""
    assert output.labels is not None
    labels = output.labels
    rounded = scores.astype(float).round(DIGITS)
    best, top = scores.argmax(axis=1).tolist(), rounded.max(axis=1).tolist()
    for result, place, score in zip(results, best, top, strict=True):
        result["label"] = labels[place]
        result["score"] = score
    if wanted == "all":
        for result, row in zip(results, rounded.tolist(), strict=True):
            result["scores"] = dict(zip(labels, row, strict=True))
