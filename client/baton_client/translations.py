"""What comes out of /v1/translate: translations, and what each of their pieces attended to.

It knows the API's JSON, not how it travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton_client.inputs import Array


@dataclass(frozen=True, slots=True)
class Attention:
    """What the pieces of a translation attended to. Shapes: `weights` [tokens, source]; a row sums to 1."""

    source: list[str]
    tokens: list[str]
    weights: Array


@dataclass(frozen=True, slots=True)
class Translation:
    """A text in the other language. `score` is its log probability over the length penalty, best near 0.

    `finish` is "end", or "length" where the text was cut short; `attention` is there where it was asked for.
    """

    text: str
    score: float
    finish: str
    attention: Attention | None


@dataclass(frozen=True, slots=True)
class TranslateResult(Translation):
    """The best Translation of a text, and its other `alternatives`, the best first.

    `tokens` counts the pieces of the text, `unknown_ratio` is the share of them that the model does not know;
    `warnings` say what makes the translation doubtful.
    """

    id: str | None
    alternatives: list[Translation]
    tokens: int
    unknown_ratio: float
    warnings: list[str]


def read_translation(item: Mapping[str, Any]) -> TranslateResult:
    """Return a result of /v1/translate."""
    return TranslateResult(
        **_members(item),
        id=item["id"],
        alternatives=[Translation(**_members(each)) for each in item.get("alternatives", ())],
        tokens=item["tokens"],
        unknown_ratio=item["unknown_ratio"],
        warnings=item.get("warnings", []),
    )


def _members(given: Mapping[str, Any]) -> dict[str, Any]:
    attention = given.get("attention")
    return {
        **{name: given[name] for name in ("text", "score", "finish")},
        "attention": attention and Attention(attention["source"], attention["tokens"], np.array(attention["weights"])),
    }
