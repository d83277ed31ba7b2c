"""POST /v1/translate: texts in, the likeliest texts of another language out.

The start graph reads each text once; then its translation is searched for, word piece by word piece, and the
hypotheses of all texts share runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Body
from pydantic import BaseModel, Field, Tag

from service.contract.manifest import Task
from service.contract.parts import Feedback
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.engine.search import Hypothesis, Likeliest, Search
from service.errors import BatchTooLarge, InvalidRequest, ItemTooLarge, RequestError, WrongTask, attempt
from service.model.decoding import MOST_BEFORE
from service.model.vocabulary import Vocabulary
from service.settings import Settings
from service.web.answers import Reply
from service.web.batch import Job, check_states, in_turn, reply, run_within, timeout_s
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest, Strict
from service.web.searches import Beams, LengthPenalty, SearchJob, run_searches
from service.web.texts import check_length, count_unknown, doubts_about, text_or_object
from service.web.turns import in_turns

ERRORS = run_errors(
    "inputs",
    ItemTooLarge("the text has 100001 characters; at most 100000", field="inputs[0]", limit=100_000),
    WrongTask("'forecast' is for task 'forecast'; for 'translate' there is translate", field="model"),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)

SHORTEST, LONGEST = 10, 3  # pieces that a translation may have, and for each of the text more: then it goes in circles
MAX_WEIGHTS = 500_000  # of attention, in one answer: a quarter of a second to write them


class TranslateItem(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    text: str


TextOrItem = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[TranslateItem, Tag("<object>")], text_or_object('"text"')
]


class TranslateRequest(RunRequest):
    task: ClassVar[Task] = "translate"
    items_field: ClassVar[str] = "inputs"

    inputs: list[TextOrItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    beams: Beams = Field(4, description="hypotheses to follow at a time; 1 takes the likeliest piece")
    length_penalty: LengthPenalty = Field(
        1.0, description="0 prefers what is likeliest as a whole, higher values longer texts"
    )
    alternatives: Beams = Field(1, description="translations of each text, at most `beams`")
    attention: bool = Field(False, description="add how much each piece of a translation attends to each of the text")


EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Two sentences into French",
        "value": {
            "model": "translate",
            "inputs": ["I am tired today.", {"id": "b", "text": "Where is the station?"}],
        },
    },
    "alternatives": {
        "summary": "The three best translations, and what each attends to",
        "value": {"model": "translate", "inputs": ["Where do you live?"], "alternatives": 3, "attention": True},
    },
}


class Attention(BaseModel):
    """Which pieces of the text each piece of a translation looked at: a row of weights for each of `tokens`."""

    source: list[str] = Field(description="the pieces of the text")
    tokens: list[str] = Field(description="the pieces of the translation")
    weights: list[list[float]]


class Translation(BaseModel):
    text: str
    score: float = Field(description="log probability over length penalty: above that of any worse translation")
    finish: Literal["end", "length"] = Field(description="length: as many pieces as may be, before an end came")
    attention: Attention | None = None


class Translated(Result, Translation):
    alternatives: list[Translation] | None = Field(None, description="the others, the best first")
    tokens: int = Field(description="pieces of the text")
    unknown_ratio: float = Field(description="share of them that the vocabulary does not know")
    warnings: list[str] | None = Field(None, description="what makes the translation doubtful")


@dataclass(slots=True)
class _Search(SearchJob):
    """The search for translations of one text; `source` is the row of the start graph that read it."""

    source: Row


@router.post("/v1/translate", response_model=BatchAnswer[Translated], summary="Translate texts")
async def translate(call: Call, body: Annotated[TranslateRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Translate each text. Items fail alone; texts of one request and of concurrent requests share runs."""
    engines, settings = call.service.engines, call.service.settings
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    if body.alternatives > body.beams:
        message = f"{body.alternatives} alternatives; at most as many as beams, {body.beams}"
        raise InvalidRequest(message, field="alternatives", limit=body.beams)
    if body.attention and engine.manifest.attention is None:
        message = f"{engine.manifest.name!r} does not tell what it attends to; leave attention out"
        raise InvalidRequest(message, field="attention")
    limit_s = timeout_s(body, settings.timeout_ms)
    read = [attempt(_read, item, engine, settings) for item in body.inputs]
    outcomes, begun = await run_within(call, read, limit_s)
    jobs = [
        outcome if isinstance(outcome, RequestError) else _begin(job, outcome, engine, body, settings)
        for job, outcome in zip(read, outcomes, strict=True)
    ]
    check_states([job.row.state for job in jobs if isinstance(job, _Search)], 1, "inputs")
    searched, timing = await run_searches(call, jobs, limit_s, keep_states=False)
    if body.attention:
        _check_size(searched, body.alternatives)
    results: list[Any] = []
    async for one in in_turns(searched):
        results.append(attempt(_shown, one, body) if isinstance(one, _Search) else one)
    return reply(call, body, engine, results, in_turn(begun, timing))


def _read(item: str | TranslateItem, engine: Engine, settings: Settings) -> Job:
    """Raises: ItemTooLarge."""
    assert engine.starter is not None
    text, member = (item, None) if isinstance(item, str) else (item.text, "text")
    check_length(len(text), settings.max_text_chars, member)
    return Job(engine.starter, Row(text=text, max_tokens=settings.max_steps), member)


def _begin(
    read: Job | RequestError, answer: Answer, engine: Engine, body: TranslateRequest, settings: Settings
) -> _Search:
    """Return the search that begins with what the start graph made of a text."""
    feedback, text = engine.manifest.feedback, engine.manifest.text
    assert isinstance(read, Job)  # what was refused has no answer
    assert isinstance(feedback, Feedback)
    assert text is not None
    most = min(text.max_length, SHORTEST + LONGEST * len(read.row.steps), settings.max_session_steps - 1)
    search = Search(Likeliest(body.beams, body.length_penalty, most, feedback.end, attends=body.attention))
    first = np.array([feedback.start], engine.manifest.sequence.dtype)
    return _Search(engine, Row(first, engine.begun(answer), search=search), read.member, search, read.row)


def _check_size(searched: Sequence[SearchJob | RequestError], alternatives: int) -> None:
    """Raises: BatchTooLarge for an answer whose JSON would hold up other requests."""
    found = [one for job in searched if isinstance(job, SearchJob) for one in job.search.best[:alternatives]]
    weights = sum(len(each) for one in found for each in one.attention[: len(one.ids)])
    if weights > MAX_WEIGHTS:
        message = f"{weights} weights of attention; at most {MAX_WEIGHTS} in one answer: send fewer texts"
        raise BatchTooLarge(message, field="inputs", limit=MAX_WEIGHTS)


def _shown(job: _Search, body: TranslateRequest) -> dict[str, Any]:
    """Raises: ModelFailed where the tokenizer fails on what was found."""
    engine, source = job.engine, job.source
    starter = engine.starter
    assert starter is not None
    best, *others = [_translation(engine, one, source, body) for one in job.search.best[: body.alternatives]]
    result = {**best, "tokens": len(source.steps), "unknown_ratio": count_unknown(starter, source)}
    if body.alternatives > 1:
        result["alternatives"] = others
    if doubts := doubts_about(starter, source):
        result["warnings"] = doubts
    return result


def _translation(engine: Engine, found: Hypothesis, source: Row, body: TranslateRequest) -> dict[str, Any]:
    assert engine.starter is not None
    vocabulary, starter = engine.model.vocabulary, engine.starter.model.vocabulary
    assert vocabulary is not None
    assert starter is not None
    assert source.encoding is not None
    made: dict[str, Any] = {
        "text": vocabulary.decode(found.ids),
        "score": round(found.score(body.length_penalty), 4),
        "finish": "end" if found.ended else "length",
    }
    if body.attention:
        pieces = _pieces(starter, source.encoding.ids)
        weights = [np.round(of_token.astype(float), 4).tolist() for of_token in found.attention[: len(found.ids)]]
        made["attention"] = {"source": pieces, "tokens": _pieces(vocabulary, found.ids), "weights": weights}
    return made


def _pieces(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text."""
    return [vocabulary.name(token, ids[max(0, place - MOST_BEFORE) : place]) for place, token in enumerate(ids)]
