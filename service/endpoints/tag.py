"""POST /v1/tag: texts in, a label for each of their words out.

A word is what the model's tokenizer takes for one; where it splits a word into pieces, the label is that of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field, Tag
from tokenizers import Encoding

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.rows import Answer, Row
from service.errors import BatchTooLarge, EmptyInput, InvalidRequest, ItemTooLarge, RequestError, WrongTask, attempt
from service.model.vocabulary import Words
from service.settings import Settings
from service.web.answers import Reply
from service.web.batch import Job, Plan, reply, run_jobs, show_each
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.labels import Wanted, add_labels
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest, Strict
from service.web.texts import check_length, count_unknown, text_or_object

ERRORS = run_errors(
    "inputs",
    ItemTooLarge("the text has 300 tokens; at most 256", field="inputs[0]", limit=256),
    WrongTask("'forecast' is for task 'forecast'; for 'tag' there is tagger, tagger-live", field="model"),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)


MAX_SCORES = 500_000  # in one answer: a quarter of a second to write them
NO_WORDS = "the text has no words; give at least one"


class TagItem(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    text: str | None = None
    tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Field(fail_fast=True)] | None = Field(
        None,
        description="a text that is split into words already, instead of `text`; where a byte-level tokenizer adds no "
        "space itself, each word but the first with the space before it",
    )


TextOrItem = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[TagItem, Tag("<object>")], text_or_object('"text" or "tokens"')
]


class TagRequest(RunRequest):
    task: ClassVar[Task] = "tag"
    items_field: ClassVar[str] = "inputs"

    inputs: list[TextOrItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    scores: Wanted = "top"


EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "The parts of speech of a text",
        "value": {"model": "tagger", "inputs": ["They don't sell time machines here."]},
    },
    "words": {
        "summary": "A text that is split already, as it is read by a model that streams",
        "value": {"model": "tagger-live", "inputs": [{"id": "a", "tokens": ["They", "do", "n't", "sell", "any", "."]}]},
    },
}


class Token(BaseModel):
    text: str = Field(description="the token as it stands in the text")
    start: int | None = Field(None, description="its place in the text, in characters; left out where `tokens` came")
    end: int | None = Field(None, description="the place of the first character after it")
    label: str
    score: float = Field(description="probability of the label")
    scores: dict[str, float] | None = Field(None, description="probability of each label, where all were asked for")


class Tags(Result):
    tokens: list[Token]
    unknown_ratio: float = Field(description="share of the tokenizer's pieces that the vocabulary does not know")


@router.post("/v1/tag", response_model=BatchAnswer[Tags], summary="Label the words of texts")
async def tag(call: Call, body: Annotated[TagRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Label each word of each text. Items fail alone; texts of one request and of concurrent requests share runs."""
    asked = plan(call.service.engines, call.service.settings, body)
    outcomes, timing = await run_jobs(call, body, asked.jobs)
    if body.scores == "all":
        _check_size(asked.engine, asked.jobs)
    return reply(call, body, asked.engine, await show_each(asked.jobs, outcomes, asked.show), timing)


def plan(engines: Registry, settings: Settings, body: TagRequest) -> Plan[Job]:
    """Raises: UnknownModel, InvalidRequest or WrongTask."""
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    jobs = [attempt(_read, item, engine, settings) for item in body.inputs]
    return Plan(engine, jobs, partial(_shown, scores=body.scores))


def _read(item: str | TagItem, engine: Engine, settings: Settings) -> Job:
    """Raises: InvalidRequest, EmptyInput or ItemTooLarge."""
    spec = engine.manifest.text
    assert spec is not None
    text: str | list[str] | None
    if isinstance(item, str):
        text, member = item, None
    elif item.tokens is None:
        text, member = item.text, "text"
    else:
        text, member = item.tokens, "tokens"
        if item.text is not None:
            raise InvalidRequest("text and tokens given; give one of them", field=member)
    if text is None:
        raise InvalidRequest("neither text nor tokens given", field=member)
    check_length(len(text) if isinstance(text, str) else sum(map(len, text)), settings.max_text_chars, member)
    if not text:
        raise EmptyInput(NO_WORDS, field=member)
    return Job(engine, Row(text=text, max_tokens=spec.max_length), member)


def _shown(job: Job, answer: Answer, *, scores: Wanted) -> dict[str, Any]:
    """Raises: EmptyInput for a text of white space, or a word that came and that the tokenizer leaves out."""
    text, encoding = job.row.text, job.row.encoding
    assert text is not None
    assert encoding is not None
    firsts, tokens = _find_words(text, encoding) if isinstance(text, str) else _match_words(text, encoding)
    if not tokens:
        raise EmptyInput(NO_WORDS)
    (output,) = job.engine.manifest.outputs
    add_labels(tokens, output, answer.outputs[output.name][firsts], scores)
    return {"tokens": tokens, "unknown_ratio": count_unknown(job.engine, job.row)}


def _check_size(engine: Engine, jobs: Sequence[Job | RequestError]) -> None:
    """Raises: BatchTooLarge for an answer whose JSON would hold up other requests."""
    labels = engine.manifest.outputs[0].sizes[0]
    scores = labels * sum(len(job.row.steps) for job in jobs if isinstance(job, Job))
    if scores > MAX_SCORES:
        message = f"{scores} scores, {labels} of each token; at most {MAX_SCORES} in one answer: send fewer texts, or "
        raise BatchTooLarge(f'{message}leave out "scores"', field="inputs", limit=MAX_SCORES)


def _find_words(text: str, encoding: Encoding) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the first piece of each word of a text, and the word where it stands, without the white space that some
    tokenizers keep before a word."""
    begun, places = _first_pieces(encoding.word_ids), encoding.offsets
    firsts: list[int] = []
    words: list[dict[str, Any]] = []
    for first, next_word in zip(begun, [*begun[1:], len(places)], strict=True):
        start, end = places[first][0], places[next_word - 1][1]
        piece = text[start:end]
        word = piece.strip()
        if word:
            if word != piece:
                start += piece.index(word)
            found = {"text": word, "start": start, "end": start + len(word)}
            if words[-1:] != [found]:  # as the three points are that a normalizer makes of an ellipsis
                firsts.append(first)
                words.append(found)
    return firsts, words


def _match_words(words: Words, encoding: Encoding) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the first piece of each of the words that came, and the word.

    Raises: EmptyInput for a word of which the tokenizer leaves nothing.
    """
    came = encoding.word_ids
    firsts = _first_pieces(came)
    read = {came[first] for first in firsts}
    for index, word in enumerate(words):
        if index not in read:
            raise EmptyInput(f"{word!r} has nothing that the tokenizer reads", field=f"tokens[{index}]")
    return firsts, [{"text": word} for word in words]


def _first_pieces(words: Sequence[int | None]) -> list[int]:
    """Return the places where another word begins than that of the piece before."""
    return [piece for piece, (word, before) in enumerate(zip(words, [None, *words], strict=False)) if word != before]
