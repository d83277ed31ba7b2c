"""POST /v1/state: states change hands without a step: out of the store into tokens, and back."""

from __future__ import annotations

from typing import Any, ClassVar

from fastapi import APIRouter
from pydantic import Field

from service.contract.manifest import Task
from service.endpoints.stateful.step_json import CarriedResult, show_carried
from service.errors import RequestError
from service.state.sessions import Carried, Hold, Point, Precision
from service.web.answers import Reply
from service.web.batch import reply
from service.web.context import Call
from service.web.error_shapes import error_responses
from service.web.routes import BODY_ERRORS, BodyRoute
from service.web.schema import MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, BatchRequest, Strict, Token

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=BODY_ERRORS | error_responses(409, 410))


class StateItem(Strict):
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    state: Token = Field(description="a state that /v1/step or this call returned")


class StateRequest(BatchRequest):
    task: ClassVar[Task] = "step"
    items_field: ClassVar[str] = "items"

    items: list[StateItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    hold: Hold = Field(description="who is to keep the state: the client in a token, or the server")
    precision: Precision = Field(
        "float32", description="of states in tokens; float16 halves them, at some cost in accuracy"
    )


@router.post("/v1/state", response_model=BatchAnswer[CarriedResult], summary="Move states into tokens or the store")
async def state(call: Call, body: StateRequest) -> Reply:
    """Return each state anew, kept as asked, without a step; the token that came stays good until it expires."""
    sessions, tenant = call.service.sessions, call.tenant
    model = call.service.engines.name(body.model, body.task)
    engine = call.service.engines.for_task(model, body.task)
    resumed = await sessions.resume([item.state for item in body.items], model=model, tenant=tenant)
    points = {index: point for index, point in enumerate(resumed) if isinstance(point, Point)}
    carried = await sessions.hand_out(list(points.values()), tenant=tenant, hold=body.hold, precision=body.precision)
    results: list[Any] = list(resumed)
    for (index, point), one in zip(points.items(), carried, strict=True):
        results[index] = one if isinstance(one, RequestError) else _shown(point, one)
    return reply(call, body, engine, results)


def _shown(point: Point, carried: Carried) -> dict[str, Any]:
    return {"version": point.engine.manifest.version, **show_carried(point, carried)}
