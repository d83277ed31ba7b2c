"""POST /v1/sentiment: texts in, labels with scores out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Discriminator, Field, Tag

from service.contract.manifest import Task
from service.engine.engine import Answer, Engine, Row
from service.errors import ItemTooLarge
from service.web.batch import Job, answer_items
from service.web.context import Call
from service.web.routes import BODY_ERRORS, BodyRoute, Reply
from service.web.schema import MOST_ID_CHARS, MOST_ITEMS, BatchAnswer, Result, RunRequest, Strict

router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=BODY_ERRORS)


class TextItem(Strict):
    id: str | None = Field(None, max_length=MOST_ID_CHARS, description="returned with the result")
    text: str


def _form(item: object) -> str | None:
    return "<text>" if isinstance(item, str) else "<object>" if isinstance(item, dict | TextItem) else None


TextOrItem = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[TextItem, Tag("<object>")],
    Discriminator(
        _form,
        custom_error_type="text_item",
        custom_error_message='Input should be a text, or an object with the member "text"',
    ),
]


class SentimentRequest(RunRequest):
    task: ClassVar[Task] = "sentiment"
    items_field: ClassVar[str] = "inputs"

    inputs: list[TextOrItem] = Field(
        max_length=MOST_ITEMS, json_schema_extra={"minItems": 1}, examples=[["What a lovely film."]]
    )
    scores: Literal["top", "all"] = Field("top", description="all adds the score of every label")
    truncate: Literal["end", "error"] = Field("end", description="what to do with a text over the model's length")


class Sentiment(Result):
    label: str
    score: float = Field(description="probability of the label")
    polarity: float | None = Field(None, description="-1 to 1, for models that declare what their labels weigh")
    scores: dict[str, float] | None = Field(None, description="probability of each label, where all were asked for")
    tokens: int = Field(description="tokens read")
    truncated: bool
    unknown_ratio: float = Field(description="share of the tokens that the vocabulary does not know")


@router.post("/v1/sentiment", response_model=BatchAnswer[Sentiment], summary="Score texts")
async def sentiment(call: Call, body: SentimentRequest) -> Reply:
    """Label each text. Items fail alone; texts of one request and of concurrent requests share runs."""
    service = call.service
    engine = service.engines.for_task(service.engines.name(body.model, body.task), body.task)
    spec = engine.manifest.text
    assert spec is not None
    most_chars, max_tokens, cut = service.settings.max_text_chars, spec.max_length, body.truncate == "end"

    def prepare(item: str | TextItem) -> Job:
        text, member = (item, None) if isinstance(item, str) else (item.text, "text")
        if len(text) > most_chars:
            message = f"the text has {len(text)} characters; at most {most_chars}"
            raise ItemTooLarge(message, field=member, limit=most_chars)
        row = Row(text=text, max_tokens=max_tokens, cut=cut)

        def show(answer: Answer) -> dict[str, Any]:
            read = _read(engine, row)
            engine.metrics.text_read(read["unknown_ratio"])
            return {**_labelled(engine, answer, body.scores), **read}

        return Job(engine, row, show, member)

    return await answer_items(call, body, engine, prepare)


def _read(engine: Engine, row: Row) -> dict[str, Any]:
    """Return what was read of the row's text."""
    assert row.encoding is not None
    assert engine.model.vocabulary is not None
    tokens = len(row.steps)
    ids = row.encoding.ids
    unknown_ratio = round(engine.model.vocabulary.unknown_ratio(ids[:tokens]), 4)
    return {"tokens": tokens, "truncated": len(ids) > tokens, "unknown_ratio": unknown_ratio}


def _labelled(engine: Engine, answer: Answer, wanted: str) -> dict[str, Any]:
    output = engine.manifest.outputs[0]
    assert output.labels is not None
    assert engine.manifest.text is not None
    scores = answer.outputs[output.name]
    best = int(scores.argmax())
    weights = engine.manifest.text.polarity
    result: dict[str, Any] = {"label": output.labels[best], "score": round(float(scores[best]), 6)}
    if weights is not None:
        result["polarity"] = round(float(scores @ np.array(weights)), 6)
    if wanted == "all":
        rounded = [round(score, 6) for score in scores.tolist()]
        result["scores"] = dict(zip(output.labels, rounded, strict=True))
    return result
