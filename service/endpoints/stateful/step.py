"""POST /v1/step: the next steps of many sessions, each carried by the client as a sealed state token, or held here.

A step is a pure function of the token and the inputs: sending both again gives the same outputs (retry), an older token
goes on from there (rewind), and one token used twice is two sessions (fork).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field

from service.contract.manifest import Task
from service.endpoints.stateful.step_json import CarriedResult, StepInput, read_row, show_carried, show_step
from service.engine.engine import Answer, Engine, Row
from service.errors import RequestError
from service.state.sessions import Hold, Point, Precision, null_state
from service.web.batch import Job, answer_items
from service.web.context import Call, Service
from service.web.routes import BODY_ERRORS, BodyRoute, Reply, error_responses
from service.web.schema import MOST_ID_CHARS, MOST_ITEMS, BatchAnswer, RunRequest, Token

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=BODY_ERRORS | error_responses(409, 410))


class StepItem(StepInput):
    id: str | None = Field(None, max_length=MOST_ID_CHARS, description="returned with the result")
    state: Token | None = Field(
        None, description="the state of the last answer; without this member a new session begins"
    )


class StepRequest(RunRequest):
    task: ClassVar[Task] = "step"
    items_field: ClassVar[str] = "items"

    items: list[StepItem] = Field(max_length=MOST_ITEMS, json_schema_extra={"minItems": 1})
    returned: Literal["last", "all"] = Field("last", alias="return", description="outputs of the last step, or of each")
    hold: Hold | None = Field(
        None,
        description="who keeps the state: the client in a token, or the server; by default as it came, new sessions "
        "in tokens, and by the server what is too large for a token",
    )
    precision: Precision = Field("f32", description="of states in tokens; f16 halves them, at some cost in accuracy")


class Step(CarriedResult):
    outputs: dict[str, Any] = Field(description="each output by its name: the last row, or k rows")
    tokens: list[str] | None = Field(None, description="the tokens that were the steps, where the input was text")


@dataclass(slots=True)
class _StepJob(Job):
    start: Point


@router.post("/v1/step", response_model=BatchAnswer[Step], summary="Take the next steps of sessions")
async def step(call: Call, body: StepRequest) -> Reply:
    """Advance each session by its inputs and return its new state. Sessions share runs; items fail alone."""
    service, tenant = call.service, call.tenant
    tokens = [item.state for item in body.items if item.state is not None]
    model = service.engines.name(body.model, body.task)
    resumed = iter(await service.sessions.resume(tokens, model=model, tenant=tenant))
    newest = service.engines.for_task(model, body.task)  # not before: models may be reloaded meanwhile

    def prepare(item: StepItem) -> Job:
        start = _start(item, newest, resumed, service)
        service.sessions.holds(start, body.hold, body.precision)  # refuse before the run what cannot be handed out
        row, member = read_row(item, start, service.settings)
        show = partial(_shown, start, row, last_only=body.returned == "last")
        return _StepJob(start.engine, row, show, member, start)

    async def carry(jobs: Sequence[Job], answers: Sequence[Answer]) -> list[dict[str, Any] | RequestError]:
        points = [_reached(job, answer) for job, answer in zip(jobs, answers, strict=True)]
        carried = await service.sessions.hand_out(points, tenant=tenant, hold=body.hold, precision=body.precision)
        return [
            one if isinstance(one, RequestError) else show_carried(point, one)
            for point, one in zip(points, carried, strict=True)
        ]

    return await answer_items(call, body, newest, prepare, carry)


def _start(item: StepItem, newest: Engine, resumed: Iterator[Point | RequestError], service: Service) -> Point:
    """Return where the item begins, which is where the next of `resumed` is when it has a state.

    Raises: StateError or StoreUnavailable; UnknownModel when a new session is asked of a model that is retiring.
    """
    if item.state is not None:
        point = next(resumed)
    elif "state" in item.model_fields_set:
        point = null_state()
    else:
        return service.sessions.begin(newest)
    if isinstance(point, RequestError):
        raise point
    return point


def _shown(start: Point, row: Row, answer: Answer, *, last_only: bool) -> dict[str, Any]:
    return {"version": start.engine.manifest.version, **show_step(start, row, answer, last_only=last_only)}


def _reached(job: Job, answer: Answer) -> Point:
    assert isinstance(job, _StepJob)
    return job.start.after(len(job.row.steps), answer.state)
