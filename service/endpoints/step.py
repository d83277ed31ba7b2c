"""POST /v1/step: the next steps of many sessions, each carried by the client as a sealed state token.

A step is a pure function of the token and the inputs: sending both again gives the same outputs (retry), an older token
goes on from there (rewind), and one token used twice is two sessions (fork).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema

from service.call import Call, Service
from service.contract import Task
from service.engine import Answer, Engine
from service.errors import RequestError, StateInvalid
from service.http import BODY_ERRORS, BodyRoute, Reply, error_responses
from service.items import Job, answer_items
from service.sessions import Carried, Point
from service.steps import StepInput, read_row, show_step, shown_time
from service.wire import MOST_ID_CHARS, MOST_ITEMS, BatchAnswer, BatchRequest, Result

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=BODY_ERRORS | error_responses(409, 410))


class StepItem(StepInput):
    id: str | None = Field(None, max_length=MOST_ID_CHARS, description="returned with the result")
    state: Annotated[bytes | None, WithJsonSchema({"type": "string", "contentEncoding": "base64url"})] = Field(
        None, description="the token of the last answer; without this member a new session begins"
    )


class StepRequest(BatchRequest):
    task: ClassVar[Task] = "step"
    items_field: ClassVar[str] = "items"

    model: str = Field(description="a model whose task is step")
    items: list[StepItem] = Field(max_length=MOST_ITEMS, json_schema_extra={"minItems": 1})
    returned: Literal["last", "all"] = Field("last", alias="return", description="outputs of the last step, or of each")


class Step(Result):
    version: str = Field(description="the model version that ran: the one that made the state")
    outputs: dict[str, Any] = Field(description="each output by its name: the last row, or k rows")
    tokens: list[str] | None = Field(None, description="the tokens that were the steps, where the input was text")
    state: str = Field(description="carry this into the next request")
    step: int = Field(description="steps that the session has taken")
    expires_at: str = Field(description="until when the state can be used, ISO 8601 UTC")


@dataclass(slots=True)
class _StepJob(Job):
    start: Point


@router.post("/v1/step", response_model=BatchAnswer[Step], summary="Take the next steps of sessions")
async def step(call: Call, body: StepRequest) -> Reply:
    """Advance each session by its inputs and return its new state. Sessions share runs; items fail alone."""
    service, tenant = call.service, call.tenant
    newest = service.engines.for_task(body.model, body.task)
    tokens = [item.state for item in body.items if item.state is not None]
    resumed = iter(await service.sessions.resume(tokens, model=body.model, tenant=tenant))

    def prepare(item: StepItem) -> Job:
        start = _start(item, newest, resumed, service)
        row, member = read_row(item, start, service.settings)
        return _StepJob(
            start.engine, row, partial(show_step, start, row, last_only=body.returned == "last"), member, start
        )

    async def carry(jobs: Sequence[Job], answers: Sequence[Answer]) -> list[dict[str, Any]]:
        points = [_reached(job, answer) for job, answer in zip(jobs, answers, strict=True)]
        carried = await service.sessions.hand_out(points, tenant=tenant)
        return [_carried(point, one) for point, one in zip(points, carried, strict=True)]

    return await answer_items(call, body, newest, prepare, carry)


def _start(item: StepItem, newest: Engine, resumed: Iterator[Point | RequestError], service: Service) -> Point:
    """Return where the item begins, which is where the next of `resumed` is when it has a state.

    Raises: StateError.
    """
    if item.state is not None:
        point = next(resumed)
    elif "state" in item.model_fields_set:
        point = StateInvalid("state is null; leave the member out to begin a new session", reason="null")
    else:
        return service.sessions.begin(newest)
    if isinstance(point, RequestError):
        point.field = "state"
        raise point
    return point


def _reached(job: Job, answer: Answer) -> Point:
    assert isinstance(job, _StepJob)
    return job.start.after(len(job.row.steps), answer.state)


def _carried(point: Point, carried: Carried) -> dict[str, Any]:
    return {
        "version": point.engine.manifest.version,
        "state": carried.token,
        "step": point.step,
        "expires_at": shown_time(carried.expires_ms // 1000),
    }
