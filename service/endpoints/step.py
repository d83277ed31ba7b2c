"""POST /v1/step: the next steps of many sessions, each carried by the client as a sealed state token.

A step is a pure function of the token and the inputs: sending both again gives the same outputs (retry), an older token
goes on from there (rewind), and one token used twice is two sessions (fork).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field, WithJsonSchema

from service.engine import Answer, Engine, Row
from service.errors import (
    EmptyInput,
    InvalidRequest,
    ItemTooLarge,
    NotFinite,
    RaggedInputs,
    StateError,
    StateInvalid,
    StateModelGone,
    StateWrongModel,
)
from service.http import BODY_ERRORS, BodyRoute, Reply, Service, error_responses, service_of
from service.items import Job, answer_items
from service.runtime import Array
from service.state.token import new_session_id
from service.wire import MOST_ID_CHARS, MOST_ITEMS, BatchAnswer, BatchRequest, Result, Strict

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=BODY_ERRORS | error_responses(409, 410))


class StepItem(Strict):
    id: str | None = Field(None, max_length=MOST_ID_CHARS, description="returned with the result")
    state: Annotated[str | None, WithJsonSchema({"type": "string"})] = Field(
        None, description="the token of the last answer; without this member a new session begins"
    )
    inputs: Annotated[list[Annotated[list[float], Field(fail_fast=True)]], Field(fail_fast=True)] | None = Field(
        None, description="k rows of features"
    )
    values: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="k numbers, for a one-number model"
    )
    text: str | None = Field(None, description="for a model with a tokenizer; each token is a step")


class StepRequest(BatchRequest):
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


@dataclass(frozen=True, slots=True)
class _Start:
    """Where an item begins: an engine, and a session that exists or is new."""

    engine: Engine
    states: tuple[Array, ...] | None
    session_id: bytes
    step: int


@router.post("/v1/step", response_model=BatchAnswer[Step], summary="Take the next steps of sessions")
async def step(request: Request, body: StepRequest) -> Reply:
    """Advance each session by its inputs and return its new state. Sessions share runs; items fail alone."""
    service = service_of(request)
    tenant: str = request.state.tenant
    newest = service.engines.for_task(body.model, "step")

    def prepare(item: StepItem) -> Job:
        start = _begin(newest) if "state" not in item.model_fields_set else _resume(service, body.model, item, tenant)
        steps, tokens = _steps(item, start.engine, service)

        def show(answer: Answer) -> dict[str, Any]:
            return _shown(service, start, len(steps), answer, tokens, tenant, last_only=body.returned == "last")

        return Job(start.engine, Row(steps, start.states), show)

    return await answer_items(request, body, newest, prepare)


def _begin(engine: Engine) -> _Start:
    return _Start(engine, states=None, session_id=new_session_id(), step=0)


def _resume(service: Service, model: str, item: StepItem, tenant: str) -> _Start:
    """Open the item's state: authenticity first, then whether it belongs to `model`, then what is in it.

    Raises: StateInvalid, StateExpired, StateModelGone, StateWrongModel.
    """
    try:
        if item.state is None:
            raise StateInvalid("state is null; leave the member out to begin a new session", reason="null")
        envelope = service.sealer.decode(item.state, longest_state_bytes=service.settings.max_state_bytes)
        session = service.sealer.open(envelope, tenant=tenant)
        engine = _maker(service, model, envelope.fingerprint)
        states = engine.unpack(session.state)
    except StateError as error:
        service.metrics.tokens_rejected.labels(error.reason).inc()
        error.field = "state"
        raise
    service.metrics.tokens_opened.labels(model).inc()
    return _Start(engine, states, session.id, session.step)


def _maker(service: Service, model: str, fingerprint: bytes) -> Engine:
    engine = service.engines.by_fingerprint(fingerprint)
    if engine is None:
        message = "the model version that made this state is not served here any more; begin a new session"
        raise StateModelGone(message, reason="model_gone")
    if engine.manifest.name != model:
        message = f"this state was made by model {engine.manifest.name!r}, the request names {model!r}"
        raise StateWrongModel(message, reason="wrong_model")
    return engine


def _steps(item: StepItem, engine: Engine, service: Service) -> tuple[Array, list[str] | None]:
    given = [name for name in ("inputs", "values", "text") if getattr(item, name) is not None]
    manifest = engine.manifest
    wanted = "text" if manifest.text is not None else "values" if manifest.features is None else "inputs"
    allowed = {wanted, "values"} if manifest.features == 1 else {wanted}
    if len(given) != 1 or given[0] not in allowed:
        have = f"{' and '.join(given)} given" if given else "nothing to step on given"
        raise InvalidRequest(f"{have}; model {manifest.name!r} takes {' or '.join(sorted(allowed))}", field=wanted)
    tokens = None
    if item.text is not None:
        steps, tokens = _read_text(item.text, engine, service)
    elif item.inputs is not None:
        steps = _read_rows(item.inputs, manifest.features or 1)
    else:
        steps = np.array(item.values, np.float64).reshape(-1, *([] if manifest.features is None else [1]))
    most = service.settings.max_steps
    if not len(steps):
        raise EmptyInput("no steps; give at least one", field=given[0])
    if len(steps) > most:
        raise ItemTooLarge(f"{len(steps)} steps; at most {most} in one item", field=given[0], limit=most)
    return _cast(steps, manifest.sequence.dtype, given[0]), tokens


def _read_text(text: str, engine: Engine, service: Service) -> tuple[Array, list[str]]:
    vocabulary = engine.model.vocabulary
    assert vocabulary is not None
    most = service.settings.max_text_chars
    if len(text) > most:
        raise ItemTooLarge(f"the text has {len(text)} characters; at most {most}", field="text", limit=most)
    encoding = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    if encoding.ids:
        service.metrics.unknown.labels(engine.manifest.name).observe(vocabulary.unknown_ratio(encoding.ids))
    return np.array(encoding.ids, np.int64), encoding.tokens


def _read_rows(rows: list[list[float]], features: int) -> Array:
    for index, row in enumerate(rows):
        if len(row) != features:
            message = f"{len(row)} values, {features} needed in every row"
            raise RaggedInputs(message, field=f"inputs[{index}]")
    return np.array(rows, np.float64).reshape(-1, features)


def _cast(steps: Array, dtype: str, field: str) -> Array:
    """Return `steps` in the model's type, refusing numbers that float32 cannot hold."""
    with np.errstate(over="ignore"):
        cast = steps.astype(dtype)
    if not np.isfinite(cast).all():
        raise NotFinite("a value is beyond the range of float32, 3.4e38", field=field)
    return cast


def _shown(
    service: Service,
    start: _Start,
    taken: int,
    answer: Answer,
    tokens: list[str] | None,
    tenant: str,
    *,
    last_only: bool,
) -> dict[str, Any]:
    manifest, reached = start.engine.manifest, start.step + taken
    token, expires_ms = service.sealer.seal(
        start.engine.pack(answer.states),
        session_id=start.session_id,
        step=reached,
        fingerprint=manifest.fingerprint,
        tenant=tenant,
    )
    service.metrics.tokens_issued.labels(manifest.name).inc()
    service.metrics.session_steps.observe(reached)
    result: dict[str, Any] = {
        "version": manifest.version,
        "outputs": {name: (rows[-1] if last_only else rows).tolist() for name, rows in answer.outputs.items()},
        "state": token,
        "step": reached,
        "expires_at": datetime.fromtimestamp(expires_ms // 1000, UTC).isoformat().replace("+00:00", "Z"),
    }
    if tokens is not None:
        result["tokens"] = tokens
    return result
