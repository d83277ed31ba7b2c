"""POST /v1/sentiment: texts in, labels with scores out."""

from __future__ import annotations

from functools import partial
from operator import mul
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Body
from pydantic import Field, Tag

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.rows import Answer, Row
from service.errors import ItemTooLarge, WrongTask, attempt
from service.settings import Settings
from service.web.answers import Reply
from service.web.batch import Job, Plan, carry_out
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.labels import DIGITS, Wanted, show_label
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest, Strict
from service.web.texts import check_length, show_reading, text_or_object

ERRORS = run_errors(
    "inputs",
    ItemTooLarge("the text has 100001 characters; at most 100000", field="inputs[0]", limit=100_000),
    WrongTask("'forecast' is for task 'forecast'; for 'sentiment' there is sentiment, spam", field="model"),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)


class TextItem(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    text: str


TextOrItem = Annotated[Annotated[str, Tag("<text>")] | Annotated[TextItem, Tag("<object>")], text_or_object('"text"')]


class SentimentRequest(RunRequest):
    task: ClassVar[Task] = "sentiment"
    items_field: ClassVar[str] = "inputs"

    inputs: list[TextOrItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    scores: Wanted = "top"
    truncate: Literal["end", "error"] = Field("end", description="what to do with a text over the model's length")


EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Two texts",
        "value": {"inputs": ["What a lovely film.", {"id": "b", "text": "It never gets off the ground."}]},
    },
    "scores": {
        "summary": "The score of every label",
        "value": {"inputs": ["It's not that I didn't like it; I loathed every minute."], "scores": "all"},
    },
    "spam": {
        "summary": "Another model: is a message spam?",
        "value": {"model": "spam", "inputs": ["URGENT! You have won a prize, call now", "ok, see you at home then"]},
    },
}


class Sentiment(Result):
    label: str
    score: float = Field(description="probability of the label")
    polarity: float | None = Field(None, description="-1 to 1, for models that declare what their labels weigh")
    scores: dict[str, float] | None = Field(None, description="probability of each label, where all were asked for")
    tokens: int = Field(description="tokens read")
    truncated: bool
    unknown_ratio: float = Field(description="share of the tokens that the vocabulary does not know")


@router.post("/v1/sentiment", response_model=BatchAnswer[Sentiment], summary="Score texts")
async def sentiment(call: Call, body: Annotated[SentimentRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Label each text. Items fail alone; texts of one request and of concurrent requests share runs."""
    return await carry_out(call, body, plan(call.service.engines, call.service.settings, body))


def plan(engines: Registry, settings: Settings, body: SentimentRequest) -> Plan[Job]:
    """Raises: UnknownModel, InvalidRequest or WrongTask."""
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    jobs = [attempt(_read, item, engine, settings.max_text_chars, cut=body.truncate == "end") for item in body.inputs]
    return Plan(engine, jobs, partial(_shown, scores=body.scores))


def _read(item: str | TextItem, engine: Engine, max_chars: int, *, cut: bool) -> Job:
    """Raises: ItemTooLarge."""
    spec = engine.manifest.text
    assert spec is not None
    text, member = (item, None) if isinstance(item, str) else (item.text, "text")
    check_length(len(text), max_chars, member)
    return Job(engine, Row(text=text, max_tokens=spec.max_length, cut=cut), member)


def _shown(job: Job, answer: Answer, *, scores: Wanted) -> dict[str, Any]:
    engine = job.engine
    (output,) = engine.manifest.outputs
    assert engine.manifest.text is not None
    weights, given = engine.manifest.text.polarity, answer.outputs[output.name]
    result = show_label(output, given, scores)
    if weights is not None:
        result["polarity"] = round(sum(map(mul, given.tolist(), weights)), DIGITS)
    return {**result, **show_reading(engine, job.row)}
