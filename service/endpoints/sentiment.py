"""POST /v1/sentiment: texts in, labels with scores out."""

from __future__ import annotations

from functools import partial
from operator import mul
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Discriminator, Field, Tag

from service.contract.manifest import Task
from service.engine.engine import Answer, Engine, Row
from service.errors import ItemTooLarge, attempt
from service.web.answers import Reply
from service.web.batch import Job, reply, run_jobs, show_each
from service.web.context import Call
from service.web.routes import BODY_ERRORS, BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest, Strict

router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=BODY_ERRORS)


class TextItem(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
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
        max_length=MAX_ITEMS, json_schema_extra={"minItems": 1}, examples=[["What a lovely film."]]
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
    engines, max_chars = call.service.engines, call.service.settings.max_text_chars
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    jobs = [attempt(_read, item, engine, max_chars, cut=body.truncate == "end") for item in body.inputs]
    outcomes, timing = await run_jobs(call, body, jobs)
    results = show_each(jobs, outcomes, partial(_shown, scores=body.scores))
    return reply(call, body, engine, results, timing)


def _read(item: str | TextItem, engine: Engine, max_chars: int, *, cut: bool) -> Job:
    """Raises: ItemTooLarge."""
    spec = engine.manifest.text
    assert spec is not None
    text, member = (item, None) if isinstance(item, str) else (item.text, "text")
    if len(text) > max_chars:
        message = f"the text has {len(text)} characters; at most {max_chars}"
        raise ItemTooLarge(message, field=member, limit=max_chars)
    return Job(engine, Row(text=text, max_tokens=spec.max_length, cut=cut), member)


def _shown(job: Job, answer: Answer, *, scores: str) -> dict[str, Any]:
    told = _told(job.engine, job.row)
    job.engine.metrics.text_read(told["unknown_ratio"])
    return {**_labelled(job.engine, answer, scores), **told}


def _told(engine: Engine, row: Row) -> dict[str, Any]:
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
        result["polarity"] = round(sum(map(mul, scores.tolist(), weights)), 6)
    if wanted == "all":
        rounded = [round(score, 6) for score in scores.tolist()]
        result["scores"] = dict(zip(output.labels, rounded, strict=True))
    return result
