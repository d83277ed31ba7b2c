"""POST /v1/state: states change hands without a step: out of the store into tokens, and back."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body
from pydantic import Field

from service.contract.manifest import Task
from service.endpoints.stateful.step_json import STATE_ERRORS, STATE_WANTED, CarriedResult, show_carried
from service.errors import RequestError
from service.state.sessions import Carried, Hold, Point, Precision
from service.web.answers import Reply
from service.web.batch import reply
from service.web.context import Call
from service.web.error_examples import batch_errors
from service.web.routes import BodyRoute
from service.web.schema import A_STATE, MAX_ID_CHARS, MAX_ITEMS, BatchAnswer, BatchRequest, Strict, Token

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=batch_errors("items", *STATE_ERRORS))


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


EXAMPLES: dict[str, Any] = {
    "hold": {
        "summary": "Have the server hold a state",
        "description": STATE_WANTED,
        "value": {"model": "sentiment-live", "items": [{"state": A_STATE}], "hold": "server"},
    },
    "carry": {
        "summary": "Carry a state in a token of half the size",
        "description": STATE_WANTED,
        "value": {
            "model": "sentiment-live",
            "items": [{"state": A_STATE}],
            "hold": "client",
            "precision": "float16",
        },
    },
}


@router.post("/v1/state", response_model=BatchAnswer[CarriedResult], summary="Move states into tokens or the store")
async def state(call: Call, body: Annotated[StateRequest, Body(openapi_examples=EXAMPLES)]) -> Reply:
    """Return each state anew, kept as asked, without a step; the token that came stays good until it expires."""
    model = call.service.engines.name(body.model, body.task)
    engine = call.service.engines.for_task(model, body.task)
    resumed = await call.resume([item.state for item in body.items], model=model)
    points = {index: point for index, point in enumerate(resumed) if isinstance(point, Point)}
    carried = await call.hand_out(list(points.values()), hold=body.hold, precision=body.precision)
    results: list[Any] = list(resumed)
    for (index, point), one in zip(points.items(), carried, strict=True):
        results[index] = one if isinstance(one, RequestError) else _shown(point, one)
    return reply(call, body, engine, results)


def _shown(point: Point, carried: Carried) -> dict[str, Any]:
    return {"version": point.engine.manifest.version, **show_carried(point, carried)}
