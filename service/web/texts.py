"""Texts in requests: how they come, and what answers tell of their reading.

It knows engines and rows, not what a model makes of a text.
"""

from __future__ import annotations

from typing import Any

from pydantic import Discriminator

from service.engine.engine import Engine
from service.engine.rows import Row
from service.errors import ItemTooLarge
from service.web.schema import Strict


def text_or_object(members: str) -> Discriminator:
    """Return what tells a text from an object that has one of `members`, in a union with their tags."""
    return Discriminator(
        _form,
        custom_error_type="text_item",
        custom_error_message=f"Input should be a text, or an object with the member {members}",
    )


def _form(item: object) -> str | None:
    return "<text>" if isinstance(item, str) else "<object>" if isinstance(item, dict | Strict) else None


def check_length(chars: int, most: int, field: str | None) -> None:
    """Raises: ItemTooLarge for a text of more than `most` characters."""
    if chars > most:
        raise ItemTooLarge(f"the text has {chars} characters; at most {most}", field=field, limit=most)


def count_unknown(engine: Engine, row: Row) -> float:
    """Return the share of the row's tokens that the vocabulary does not know, which the metrics count too."""
    assert row.encoding is not None
    assert engine.model.vocabulary is not None
    ratio = round(engine.model.vocabulary.unknown_ratio(row.encoding.ids[: len(row.steps)]), 4)
    engine.metrics.text_read(ratio)
    return ratio


def doubts_about(starter: Engine, row: Row) -> list[str]:
    """Return what makes doubtful that a start graph read this text: unknown tokens, or more than in training."""
    assert row.encoding is not None
    assert starter.manifest.text is not None
    assert starter.model.vocabulary is not None
    tokens, seen = len(row.steps), starter.manifest.text.max_length
    unknown = row.encoding.ids.count(starter.model.vocabulary.unknown_id)
    doubts = [f"unknown to the model: {unknown} of the text's {tokens} tokens"] if unknown else []
    if tokens > seen:
        doubts.append(f"the text has {tokens} tokens; the longest that the model was trained on has {seen}")
    return doubts


def show_reading(engine: Engine, row: Row) -> dict[str, Any]:
    """Return what JSON shows of how much of the row's text was read."""
    assert row.encoding is not None
    tokens = len(row.steps)
    unknown_ratio = count_unknown(engine, row)
    return {"tokens": tokens, "truncated": len(row.encoding.ids) > tokens, "unknown_ratio": unknown_ratio}
