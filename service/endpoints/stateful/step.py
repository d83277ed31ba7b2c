"""POST /v1/step: the next steps of many sessions, each carried by the client as a sealed state token, or held here.

A step is a pure function of the token and the inputs: sending both again gives the same outputs (retry), an older token
goes on from there (rewind), and one token used twice is two sessions (fork).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Body
from pydantic import Field

from service.contract.manifest import Task
from service.endpoints.stateful.conditions import Condition
from service.endpoints.stateful.starts import Start, begin_all
from service.endpoints.stateful.step_json import (
    STATE_ERRORS,
    STATE_WANTED,
    CarriedResult,
    StepInput,
    read_row,
    show_carried,
    show_step,
)
from service.engine.rows import Answer
from service.errors import ItemTooLarge, NotFinite, RaggedInputs, RequestError, SessionTooLong, attempt
from service.state.sessions import Carried, Hold, Point, Precision
from service.web.answers import Reply
from service.web.batch import Job, Outcomes, Results, in_turn, reply, run_within, timeout_s
from service.web.context import Call, Service
from service.web.error_examples import run_errors
from service.web.routes import BodyRoute
from service.web.schema import A_STATE, MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, RunRequest, Token

ERRORS = run_errors(
    "items",
    *STATE_ERRORS,
    ItemTooLarge("4097 steps; at most 4096 in one item", field="items[0].values", limit=4096),
    RaggedInputs("2 values, 1 needed in every row", field="items[0].inputs[0]"),
    NotFinite("items[0].values[1] is not a finite number", field="items[0].values[1]"),
    SessionTooLong("5 steps; the session may take 4 more", field="items[0].values", limit=4),
)
router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=ERRORS)


class StepItem(StepInput):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    state: Token | None = Field(
        None, description="the state of the last answer; without this member a new session begins"
    )
    condition: Condition | None = Field(
        None,
        alias="begin",
        description="what a new session of a model with a start graph begins from; its first step is the id that the "
        "model declares, then come those that are given, if any",
    )


class StepRequest(RunRequest):
    task: ClassVar[Task] = "step"
    items_field: ClassVar[str] = "items"

    items: list[StepItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    returned: Literal["last", "all"] = Field("last", alias="return", description="outputs of the last step, or of each")
    hold: Hold | None = Field(
        None,
        description="who keeps the state: the client in a token, or the server; by default as it came, new sessions "
        "in tokens, and by the server what is too large for a token",
    )
    precision: Precision = Field(
        "float32", description="of states in tokens; float16 halves them, at some cost in accuracy"
    )


EXAMPLES: dict[str, Any] = {
    "begin": {
        "summary": "A session begins, with two words of a text",
        "description": "The answer's `state` goes into the next request.",
        "value": {"model": "sentiment-live", "items": [{"id": "a", "text": "What a"}]},
    },
    "go_on": {
        "summary": "The session goes on",
        "description": STATE_WANTED,
        "value": {"model": "sentiment-live", "items": [{"id": "a", "state": A_STATE, "text": "lovely film"}]},
    },
    "observations": {
        "summary": "A session of numbers, and what each observation makes expect",
        "value": {"model": "forecast-live", "items": [{"values": [20.1, 20.4, 20.3]}], "return": "all"},
    },
    "held": {
        "summary": "A session whose state the server holds",
        "value": {"model": "forecast-live", "items": [{"values": [20.1, 20.4, 20.3]}], "hold": "server"},
    },
}


class Step(CarriedResult):
    outputs: dict[str, Any] = Field(description="each output by its name: the last row, or k rows")
    tokens: list[str] | None = Field(None, description="the tokens that were the steps, where the input was text")
    warnings: list[str] | None = Field(None, description="why the condition is doubtful")


@dataclass(slots=True)
class _StepJob(Job):
    start: Start


@router.post("/v1/step", response_model=BatchAnswer[Step], summary="Take the next steps of sessions")
async def step(call: Call, body: Annotated[StepRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Advance each session by its inputs and return its new state. Sessions share runs; items fail alone."""
    limit_s = timeout_s(body, call.service.settings.timeout_ms)
    newest, starts, opened = await begin_all(call, body.task, body.model, body.items, limit_s)
    jobs = [attempt(_read, item, start, body, call.service) for item, start in zip(body.items, starts, strict=True)]
    outcomes, timing = await run_within(call, jobs, limit_s)
    return reply(call, body, newest, await _hand_out(call, body, jobs, outcomes), in_turn(opened, timing))


def _read(item: StepItem, start: Start | RequestError, body: StepRequest, service: Service) -> _StepJob:
    """Raises: RequestError where the item does not begin, cannot be read, or leads to a state that cannot be kept."""
    if isinstance(start, RequestError):
        raise start
    service.sessions.holds(start.point, body.hold, body.precision)
    row, member = read_row(item, start.point, service.settings)
    return _StepJob(start.point.engine, row, member, start)


async def _hand_out(
    call: Call, body: StepRequest, jobs: Sequence[_StepJob | RequestError], outcomes: Outcomes
) -> Results:
    """Return what is shown of each session: its outputs, and its new state."""
    points: list[Point] = []
    done: list[tuple[int, _StepJob, Answer]] = []
    for index, (job, answer) in enumerate(zip(jobs, outcomes, strict=True)):
        if isinstance(job, _StepJob) and isinstance(answer, Answer):
            points.append(job.start.point.after(len(job.row.steps), answer.state))
            done.append((index, job, answer))
    carried = await call.hand_out(points, hold=body.hold, precision=body.precision)
    results: list[Any] = list(outcomes)
    for (index, job, answer), point, one in zip(done, points, carried, strict=True):
        results[index] = one if isinstance(one, RequestError) else _shown(job, answer, body, point, one)
    return results


def _shown(job: _StepJob, answer: Answer, body: StepRequest, point: Point, carried: Carried) -> dict[str, Any]:
    made = show_step(job.start.point, job.row, answer, last_only=body.returned == "last")
    warned = {"warnings": job.start.doubts} if job.start.doubts else {}
    return {"version": job.engine.manifest.version, **made, **warned, **show_carried(point, carried)}
