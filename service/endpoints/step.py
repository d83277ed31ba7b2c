"""POST /v1/step: the next steps of many sessions, each carried by the client as a sealed state token.

A step is a pure function of the token and the inputs: sending both again gives the same outputs (retry), an older token
goes on from there (rewind), and one token used twice is two sessions (fork).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field, WithJsonSchema

from service.call import Call, Service
from service.contract import Task
from service.engine import Answer, Engine, Row
from service.errors import (
    EmptyInput,
    InvalidRequest,
    ItemTooLarge,
    RaggedInputs,
    StateError,
    StateInvalid,
    StateModelGone,
    StateWrongModel,
)
from service.http import BODY_ERRORS, BodyRoute, Reply, error_responses
from service.items import Job, answer_items
from service.runtime import Array, cast
from service.state.token import INVALID, new_session_id
from service.wire import MOST_ID_CHARS, MOST_ITEMS, BatchAnswer, BatchRequest, Result, Strict

EXACT = 2**53 - 1  # JSON numbers are read as floats of 64 bits; beyond this they may not be what the client wrote

router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses=BODY_ERRORS | error_responses(409, 410))


class StepItem(Strict):
    id: str | None = Field(None, max_length=MOST_ID_CHARS, description="returned with the result")
    state: Annotated[bytes | None, WithJsonSchema({"type": "string", "contentEncoding": "base64url"})] = Field(
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
class _Start:
    """Where an item begins: an engine, and a session that exists or is new."""

    engine: Engine
    state: bytes | None
    session_id: bytes
    step: int


@router.post("/v1/step", response_model=BatchAnswer[Step], summary="Take the next steps of sessions")
async def step(call: Call, body: StepRequest) -> Reply:
    """Advance each session by its inputs and return its new state. Sessions share runs; items fail alone."""
    service, tenant = call.service, call.tenant
    newest = service.engines.for_task(body.model, body.task)

    def prepare(item: StepItem) -> Job:
        start = _begin(newest) if "state" not in item.model_fields_set else _resume(service, body.model, item, tenant)
        row, member = _row(item, start, service)

        def show(answer: Answer) -> dict[str, Any]:
            return _shown(service, start, row, answer, tenant, last_only=body.returned == "last")

        return Job(start.engine, row, show, member)

    return await answer_items(call, body, newest, prepare)


def _begin(engine: Engine) -> _Start:
    return _Start(engine, state=None, session_id=new_session_id(), step=0)


def _resume(service: Service, model: str, item: StepItem, tenant: str) -> _Start:
    """Open the item's state: authenticity first, then whether it belongs to `model`, then what is in it.

    Raises: StateInvalid, StateExpired, StateModelGone, StateWrongModel.
    """
    try:
        if item.state is None:
            raise StateInvalid("state is null; leave the member out to begin a new session", reason="null")
        fingerprint = service.sealer.maker(item.state, longest_state_bytes=service.settings.max_state_bytes)
        session = service.sealer.open(item.state, tenant=tenant)
        engine = _maker(service, model, fingerprint)
        if len(session.state) != engine.state_bytes:
            raise StateInvalid(INVALID, reason="wrong_size")
    except StateError as error:
        error.field = "state"
        raise
    engine.metrics.token_opened()
    return _Start(engine, session.state, session.id, session.step)


def _maker(service: Service, model: str, fingerprint: bytes) -> Engine:
    engine = service.engines.by_fingerprint(fingerprint)
    if engine is None:
        message = "the model version that made this state is not served here any more; begin a new session"
        raise StateModelGone(message, reason="model_gone")
    if engine.manifest.name != model:
        message = f"this state was made by model {engine.manifest.name!r}, the request names {model!r}"
        raise StateWrongModel(message, reason="wrong_model")
    return engine


def _row(item: StepItem, start: _Start, service: Service) -> tuple[Row, str]:
    """Return the item's row, and the name of the member that holds its input."""
    given = [name for name in ("inputs", "values", "text") if getattr(item, name) is not None]
    manifest, most = start.engine.manifest, service.settings.max_steps
    wanted = "text" if manifest.text is not None else "values" if manifest.features is None else "inputs"
    allowed = {wanted, "values"} if manifest.features == 1 else {wanted}
    if len(given) != 1 or given[0] not in allowed:
        have = f"{' and '.join(given)} given" if given else "nothing to step on given"
        raise InvalidRequest(f"{have}; model {manifest.name!r} takes {' or '.join(sorted(allowed))}", field=wanted)
    if item.text is not None:
        most_chars = service.settings.max_text_chars
        if len(item.text) > most_chars:
            message = f"the text has {len(item.text)} characters; at most {most_chars}"
            raise ItemTooLarge(message, field="text", limit=most_chars)
        return Row(text=item.text, state=start.state, most_tokens=most), "text"
    if item.inputs is not None:
        steps = _read_rows(item.inputs, manifest.features or 1, manifest.sequence.dtype)
    else:
        steps = _read_numbers(item.values, manifest.sequence.dtype, "values")
        steps = steps.reshape(-1, *([] if manifest.features is None else [1]))
    if not len(steps):
        raise EmptyInput("no steps; give at least one", field=given[0])
    if len(steps) > most:
        raise ItemTooLarge(f"{len(steps)} steps; at most {most} in one item", field=given[0], limit=most)
    return Row(steps, start.state), given[0]


def _read_rows(rows: list[list[float]], features: int, dtype: str) -> Array:
    for index, row in enumerate(rows):
        if len(row) != features:
            message = f"{len(row)} values, {features} needed in every row"
            raise RaggedInputs(message, field=f"inputs[{index}]")
    return _read_numbers(rows, dtype, "inputs").reshape(-1, features)


def _read_numbers(numbers: object, dtype: str, field: str) -> Array:
    """Return `numbers`, in lists of equal length, as an array of `dtype`.

    Raises: InvalidRequest for the first that is not whole, or too large, where the model takes whole numbers.
    """
    if dtype == "float32":
        return cast(numbers, dtype)
    array, bounds = np.asarray(numbers, np.float64), np.iinfo(dtype)
    least, most = max(bounds.min, -EXACT), min(bounds.max, EXACT)
    bad = np.argwhere((array != np.floor(array)) | (array < least) | (array > most))
    if len(bad):
        place = tuple(bad[0])
        message = f"{array[place]:.17g} is no whole number from {least} to {most}, which this model takes"
        raise InvalidRequest(message, field=field + "".join(f"[{index}]" for index in place))
    return array.astype(dtype)


def _shown(
    service: Service, start: _Start, row: Row, answer: Answer, tenant: str, *, last_only: bool
) -> dict[str, Any]:
    manifest, reached = start.engine.manifest, start.step + len(row.steps)
    token, expires_ms = service.sealer.seal(
        answer.state, session_id=start.session_id, step=reached, fingerprint=manifest.fingerprint, tenant=tenant
    )
    start.engine.metrics.token_issued(reached)
    result: dict[str, Any] = {
        "version": manifest.version,
        "outputs": {name: (rows[-1] if last_only else rows).tolist() for name, rows in answer.outputs.items()},
        "state": token,
        "step": reached,
        "expires_at": _shown_time(expires_ms // 1000),
    }
    if row.encoding is not None:
        vocabulary, ids = start.engine.model.vocabulary, row.encoding.ids
        assert vocabulary is not None
        start.engine.metrics.text_read(vocabulary.unknown_ratio(ids))
        result["tokens"] = [vocabulary.tokenizer.id_to_token(token) for token in ids]
    return result


@lru_cache(maxsize=16)
def _shown_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
