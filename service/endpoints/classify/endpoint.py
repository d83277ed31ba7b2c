"""POST /v1/classify: texts, series, signals or audio in, a label for each out."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Body
from pydantic import Field
from starlette.requests import ClientDisconnect

from service.contract.manifest import Manifest, Task
from service.endpoints.classify.audio import read_wav
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.rows import Answer, Row
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ItemTooLarge,
    NotFinite,
    RaggedInputs,
    RequestError,
    WrongTask,
    attempt,
)
from service.model.onnx_session import cast
from service.settings import Settings
from service.web.answers import Reply
from service.web.batch import Job, Plan, reply, run_within, show_each, timeout_s
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.labels import Wanted, show_label
from service.web.numbers import NumbersInput, find_given, frame, read_numbers, read_samples, takes_numbers
from service.web.routes import BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, Result, RunRequest
from service.web.texts import check_length, show_reading

ERRORS = run_errors(
    "items",
    ItemTooLarge("60 seconds; at most 40.96 in one item", field="items[0].audio", limit=40.96),
    RaggedInputs("2 values, 3 needed in every row", field="items[0].inputs[0]"),
    NotFinite("a sample is not finite", field="items[0].audio"),
    InvalidRequest("is no WAV file, which begins with RIFF, a size and WAVE", field="items[0].audio"),
    WrongTask(
        "'forecast' is for task 'forecast'; for 'classify' there is digits, digits-live, sentiment, spam", field="model"
    ),
)
router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=ERRORS)

DECODER = ThreadPoolExecutor(1, "wav")  # one thread, for recordings alone: nothing else waits behind them
MEMBERS = ("inputs", "values", "text", "audio")


class ClassifyItem(NumbersInput):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    text: str | None = Field(None, description="for a model with a tokenizer")
    audio: str | None = Field(
        None,
        description="for a model of a signal: a WAV file in base64, of 8, 16, 24 or 32 bits or floats, its rate from a "
        "sixth of the model's to 50 times it; channels are averaged",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "audio/wav"},
    )


class ClassifyRequest(RunRequest):
    task: ClassVar[Task] = "classify"
    items_field: ClassVar[str] = "items"

    items: list[ClassifyItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    scores: Wanted = "top"
    truncate: Literal["end", "error"] = Field("end", description="what to do with a text over the model's length")


TONE = (  # 20 ms of it, so that the example is short: a spoken digit is as long as it takes
    "UklGRsQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YaAAAACAlai3vr+4qpeCbFhJQUBGVGZ7kaW0vb+5rZuGcFxMQkBFUWJ3ja"
    "KyvL+7sJ6KdF9OQ0BDTl90ip6wu7+8sqKNd2JRRUBCTFxwhputub+9tKWRe2ZURkBBSVhsgpequL++t6iVgGpXSEFAR1VofZOntr6/uauZhG5a"
    "S0JARlJkeY+js72/uq6diHJdTUNARE9hdYugsbzAvLGgi3VhT0RA"
)
EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "Is a message spam?",
        "value": {"model": "spam", "items": [{"text": "URGENT! You have won a prize, call now"}], "scores": "all"},
    },
    "audio": {
        "summary": "Which digit is spoken in a WAV file?",
        "value": {"model": "digits", "items": [{"audio": TONE}], "scores": "all"},
    },
}


class Label(Result):
    label: str
    score: float = Field(description="probability of the label")
    scores: dict[str, float] | None = Field(None, description="probability of each label, where all were asked for")
    steps: int = Field(description="time steps of the model")
    tokens: int | None = Field(None, description="tokens read, of a text")
    truncated: bool | None = Field(None, description="whether the text was cut")
    unknown_ratio: float | None = Field(None, description="share of the tokens that the vocabulary does not know")
    seconds: float | None = Field(None, description="how long the audio is")


@router.post("/v1/classify", response_model=BatchAnswer[Label], summary="Label sequences")
async def classify(call: Call, body: Annotated[ClassifyRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Label each text, series, signal or recording. Items fail alone; those of concurrent requests share runs."""
    engines = call.service.engines
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    limit_s = timeout_s(body, call.service.settings.timeout_ms)
    began = time.monotonic()
    jobs = await _read_all(call, body, engine, began + limit_s)
    outcomes, timing = await run_within(call, jobs, limit_s - (time.monotonic() - began))
    results = await show_each(jobs, outcomes, partial(_shown, scores=body.scores))
    return reply(call, body, engine, results, timing)


def plan(engines: Registry, settings: Settings, body: ClassifyRequest) -> Plan[_SequenceJob]:
    """Read all items at once, on the caller's thread. Raises: UnknownModel, InvalidRequest or WrongTask."""
    engine = engines.for_task(engines.name(body.model, body.task), body.task)
    read = partial(attempt, partial(_read, engine=engine, settings=settings, cut=body.truncate == "end"))
    return Plan(engine, [read(item) for item in body.items], partial(_shown, scores=body.scores))


@dataclass(slots=True)
class _SequenceJob(Job):
    seconds: float | None = None  # of audio


async def _read_all(
    call: Call, body: ClassifyRequest, engine: Engine, deadline: float
) -> list[_SequenceJob | RequestError]:
    """Read all items; recordings are decoded on their own thread, in turn with those of other requests.

    Raises: DeadlineExceeded; ClientDisconnect when the client left meanwhile.
    """
    read = partial(attempt, partial(_read, engine=engine, settings=call.service.settings, cut=body.truncate == "end"))
    jobs: list[_SequenceJob | RequestError] = []
    for item in body.items:
        if item.audio is None:
            jobs.append(read(item))
            continue
        jobs.append(await asyncio.get_running_loop().run_in_executor(DECODER, read, item))
        if call.peer.left:
            raise ClientDisconnect
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{len(jobs)} of {len(body.items)} items read within the deadline; send fewer")
    return jobs


def _read(item: ClassifyItem, engine: Engine, settings: Settings, *, cut: bool) -> _SequenceJob:
    """Raises: InvalidRequest, EmptyInput, RaggedInputs, NotFinite or ItemTooLarge."""
    manifest, most = engine.manifest, settings.max_steps
    member = find_given(item, MEMBERS, _takes(manifest), manifest)
    if item.text is not None:
        assert manifest.text is not None
        check_length(len(item.text), settings.max_text_chars, member)
        return _SequenceJob(engine, Row(text=item.text, max_tokens=manifest.text.max_length, cut=cut), member)
    if item.audio is not None:
        return _listen(item.audio, engine, most, member)
    if manifest.signal is not None:
        return _SequenceJob(engine, Row(read_samples(item.values or [], manifest, most)), member)
    return _SequenceJob(engine, Row(read_numbers(item, manifest, most)), member)


def _takes(manifest: Manifest) -> tuple[str, ...]:
    if manifest.text is not None:
        return ("text",)
    return takes_numbers(manifest) if manifest.signal is None else ("values", "audio")


def _listen(audio: str, engine: Engine, most: int, member: str) -> _SequenceJob:
    """Raises: what `read_wav` raises, with the member as its field."""
    manifest = engine.manifest
    assert manifest.signal is not None
    recording = attempt(read_wav, audio, manifest.signal.sample_rate, most * (manifest.features or 1))
    if isinstance(recording, RequestError):
        recording.field = member
        raise recording
    steps = frame(cast(recording.samples, manifest.sequence.dtype), manifest)
    return _SequenceJob(engine, Row(steps), member, recording.seconds)


def _shown(job: _SequenceJob, answer: Answer, *, scores: Wanted) -> dict[str, Any]:
    (output,) = job.engine.manifest.outputs
    given = answer.outputs[output.name]
    result = show_label(output, given if given.ndim == 1 else given[-1], scores)  # those of the last step, if by step
    result["steps"] = len(job.row.steps)
    if job.row.encoding is not None:
        result |= show_reading(job.engine, job.row)
    if job.seconds is not None:
        result["seconds"] = round(job.seconds, 6)
    return result
