"""Sessions over the protocol: begun, and gone on with by tokens of clients, or as sequences that the server keeps.

It knows requests, points and rows, not the form of an answer. Invariant: a session begins anew only where a request
carries no state at all, or says that its sequence starts.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.batching.submission import Timing
from service.endpoints.v2.rows import check_tensors, read_rows
from service.endpoints.v2.schema import InferRequest, Parameters
from service.endpoints.v2.signature import STATE_TOKEN, Signature, signature_of
from service.endpoints.v2.tensors import BYTES
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import InvalidRequest, RequestError, StateError, StateInvalid, StateWrongModel
from service.model.onnx_session import Array
from service.state.sessions import Point, steps_left
from service.web.batch import Job, run_within
from service.web.context import Call

T = TypeVar("T")
SEQUENCE_ID = "parameters.sequence_id"  # where a request names its sequence
FROM_URL = str.maketrans("-_+/", "+/--")  # base64url to base64, whose own characters are none of the other's


@dataclass(slots=True)
class Inferred:
    """What came of a request: its rows and their answers, what is told in parameters, and the tokens of sessions."""

    engine: Engine
    rows: list[Row]
    answers: list[Answer]
    timing: Timing
    parameters: dict[str, Any] = field(default_factory=dict)
    tokens: list[bytes] | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came: for a model, and perhaps for a version of it, to be run within `timeout_s`."""

    call: Call
    body: InferRequest
    tensors: Mapping[str, Array]
    model: str
    version: str | None
    timeout_s: float

    def read_rows(self, engine: Engine) -> list[Row]:
        """Raises: InvalidRequest and its kin; StateWrongModel where a state leads to another version than asked for."""
        if self.version not in (None, engine.manifest.version):
            message = f"the state is of version {engine.manifest.version}, the request names {self.version}"
            raise StateWrongModel(message, reason="wrong_version", field=STATE_TOKEN)
        signature = signature_of(engine)
        check_outputs(self.body, signature)
        check_tensors(self.body.inputs, self.tensors, engine, signature)
        return read_rows(self.tensors, engine, signature, self.call.service.settings)

    async def run(self, engine: Engine, rows: list[Row], timeout_s: float) -> Inferred:
        """Raises: the error of the first row that has no answer; what `run_within` raises."""
        outcomes, timing = await run_within(self.call, [Job(engine, row, None) for row in rows], timeout_s)
        answers: list[Answer] = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, RequestError):
                if len(rows) > 1:
                    outcome.message = f"row {index}: {outcome.message}"
                raise outcome
            answers.append(outcome)
        return Inferred(engine, rows, answers, timing)


def refuse_null(parameters: Parameters) -> None:
    """Raises: StateInvalid or InvalidRequest for a state that is null: the client may have lost what it means."""
    anew = "is null; leave it out where a new session is to begin"
    if parameters.state_token is None and STATE_TOKEN in parameters.model_fields_set:
        raise StateInvalid(anew, reason="null", field=f"parameters.{STATE_TOKEN}")
    if parameters.sequence_id is None and "sequence_id" in parameters.model_fields_set:
        raise InvalidRequest(anew, field=SEQUENCE_ID)


def check_outputs(body: InferRequest, signature: Signature) -> None:
    """Check the outputs that a request names; once a session has gone on, it would be too late.

    Raises: InvalidRequest with the place of the output.
    """
    named = set()
    for index, output in enumerate(body.outputs or ()):
        name, place = output.name, f"outputs[{index}]"
        declared = signature.outputs.get(name)
        if declared is None:
            there = ", ".join(signature.outputs)
            raise InvalidRequest(f"there is no output {name!r}; there are {there}", field=f"{place}.name")
        if name in named:
            raise InvalidRequest(f"{name!r} is asked for twice", field=f"{place}.name")
        if name == STATE_TOKEN and name not in signature.made and body.parameters.speaks_of_sequence:
            raise InvalidRequest("the server keeps the state of a sequence", field=f"{place}.name")
        by_step = name in signature.made and signature.made[name].has_time
        if output.parameters.classification and (by_step or declared.datatype == BYTES):
            message = f"{name!r} holds texts or steps; classes are of numbers that each row has once"
            raise InvalidRequest(message, field=f"{place}.parameters.classification")
        named.add(name)


async def run_once(asked: Asked, engine: Engine) -> Inferred:
    """Run the rows of a request for a model without sessions.

    Raises: InvalidRequest where it speaks of some.
    """
    parameters = asked.body.parameters
    if parameters.state_token is not None or parameters.speaks_of_sequence:
        message = f"model {asked.model!r} carries no state; leave out state_token and sequence_id"
        raise InvalidRequest(message, field="parameters")
    return await asked.run(engine, asked.read_rows(engine), asked.timeout_s)


async def run_with_tokens(asked: Asked, engine: Engine) -> Inferred:
    """Go on with the sessions whose tokens a request carries, one for each of its rows, or begin one for each row.

    Raises: what `Sessions.resume`, `begin` and `hand_out` give; InvalidRequest where rows and tokens do not agree.
    """
    sessions, settings = asked.call.service.sessions, asked.call.service.settings
    tokens = _tokens(asked)
    points: list[Point] = []
    if tokens is not None:
        resumed = await asked.call.resume(tokens, model=asked.model)
        points = [_sound(point) for point in resumed]
        if points:
            engine = points[0].engine
        versions = sorted({point.engine.manifest.version for point in points})
        if len(versions) > 1:
            message = f"the states are of versions {' and '.join(versions)}; send those of each in a request of its own"
            raise InvalidRequest(message, field=STATE_TOKEN)
    rows = asked.read_rows(engine)
    if tokens is None:
        points = [sessions.begin(engine) for _ in rows]
    if len(points) != len(rows):
        raise InvalidRequest(f"{len(points)} states for {len(rows)} rows; give one for each", field=STATE_TOKEN)
    for row, point in zip(rows, points, strict=True):
        row.state, row.steps_left = point.state, steps_left(point, settings)
    inferred = await asked.run(engine, rows, asked.timeout_s)
    if len(rows) > 1 and not _wants_tokens(asked.body):
        return inferred
    reached = [
        point.after(len(row.steps), answer.state)
        for point, row, answer in zip(points, rows, inferred.answers, strict=True)
    ]
    carried = [_sound(one) for one in await asked.call.hand_out(reached)]
    inferred.tokens = [one.token for one in carried]
    return inferred


async def run_in_sequence(asked: Asked) -> Inferred:
    """Take the next steps of the sequence that a request names.

    Raises: what `Sequences.advance` raises; InvalidRequest for a request of several rows, or one that carries a state.
    """
    call, parameters = asked.call, asked.body.parameters
    if parameters.sequence_id is None:
        raise InvalidRequest("is missing; sequence_start and sequence_end need it", field=SEQUENCE_ID)
    if not parameters.sequence_id:
        message = f"{parameters.sequence_id!r} stands for no sequence; leave it out, or give another"
        raise InvalidRequest(message, field=SEQUENCE_ID)
    if parameters.state_token is not None or STATE_TOKEN in asked.tensors:
        raise InvalidRequest("the server keeps the state of a sequence; leave it out", field=STATE_TOKEN)
    sequences = call.service.sequences
    if waiting := sequences.waiting(asked.model, call.tenant):
        call.service.engines.get(asked.model).batcher.check_room(1, call.tenant, ahead=waiting)
    done: list[Inferred] = []

    async def take(point: Point, left_s: float) -> Point:
        rows = asked.read_rows(point.engine)
        if len(rows) > 1:
            raise InvalidRequest(f"{len(rows)} rows; a request of a sequence has one", field=SEQUENCE_ID)
        rows[0].state, rows[0].steps_left = point.state, steps_left(point, call.service.settings)
        done[:] = [await asked.run(point.engine, rows, left_s)]
        return point.after(len(rows[0].steps), done[0].answers[0].state)

    advanced = await sequences.advance(
        asked.model,
        parameters.sequence_id,
        tenant=call.tenant,
        start=parameters.sequence_start,
        end=parameters.sequence_end,
        timeout_s=asked.timeout_s,
        take=take,
        version=asked.version,
    )
    (inferred,) = done
    inferred.parameters = {
        "sequence_id": parameters.sequence_id,
        "sequence_start": parameters.sequence_start,
        "sequence_end": parameters.sequence_end,
        "sequence_step": advanced.step,
    }
    if advanced.restarted:
        inferred.parameters["sequence_restarted"] = True
    return inferred


def _tokens(asked: Asked) -> list[bytes] | None:
    """Return the state tokens of a request, None where it carries none."""
    given, tensor = asked.body.parameters.state_token, asked.tensors.get(STATE_TOKEN)
    if given is not None and tensor is not None:
        raise InvalidRequest("is given as a parameter and as a tensor; give one of them", field=STATE_TOKEN)
    if tensor is None:
        return None if given is None else [given]
    return [_sound(_decoded(text)) for text in tensor.ravel().tolist()]


def _decoded(text: str) -> bytes | StateInvalid:
    try:
        return binascii.a2b_base64(text.translate(FROM_URL), strict_mode=True)
    except ValueError:
        return StateInvalid("not base64url, so no state token", reason="not_base64url", field=STATE_TOKEN)


def _sound(outcome: T | RequestError) -> T:
    """Return what could be made; else raise why not, with the place of the token where that is its fault."""
    if isinstance(outcome, RequestError):
        if isinstance(outcome, StateError):
            outcome.field = STATE_TOKEN
        raise outcome
    return outcome


def _wants_tokens(body: InferRequest) -> bool:
    """Return whether a request of several rows wants its states: unless it names its outputs without them."""
    return not body.outputs or any(output.name == STATE_TOKEN for output in body.outputs)
