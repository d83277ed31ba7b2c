"""POST /v2/models/{name}/infer: tensors in, tensors out, whatever the model's task.

One row that cannot be answered fails its request: the protocol has no place for the error of a row.
"""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from pydantic_core import to_json

from service.contract.manifest import Task
from service.endpoints.v2.examples import INFER_ERRORS, InferBody, InferModel, InferVersion
from service.endpoints.v2.rows import check_rows, join_rows
from service.endpoints.v2.schema import (
    NO_OUTPUT_PARAMETERS,
    InferAnswer,
    InferRequest,
    OutputParameters,
    read_request,
)
from service.endpoints.v2.signature import LENGTHS, STATE_TOKEN, Signature, signature_of
from service.endpoints.v2.stateful import Asked, Inferred, refuse_null, run_in_sequence, run_once, run_with_tokens
from service.endpoints.v2.tensors import BYTES, classify, read_tensors, show_binary, show_json
from service.errors import InvalidRequest
from service.model.onnx_session import Array
from service.web.answers import JSON, WholeAnswer, server_timing
from service.web.bodies import refuse_encodings
from service.web.context import Call
from service.web.routes import BodyRoute

OCTETS = b"application/octet-stream"


class InferRoute(BodyRoute):
    """A route whose body is a request of the protocol, whatever media type it says it is."""

    def wanted(self, parameters: Mapping[str, str], body: bytes | None) -> tuple[Task | None, str | None]:
        return None, parameters["name"]

    def choose_reader(self, call: Call) -> Callable[[bytes], Any]:
        refuse_encodings(call)
        return partial(read_request, call)


router = APIRouter(route_class=InferRoute, tags=["open inference protocol"], responses=INFER_ERRORS)


@router.post("/v2/models/{name}/infer", response_model=InferAnswer, summary="Run tensors")
async def infer(call: Call, body: Annotated[InferRequest, InferBody], name: InferModel) -> WholeAnswer:
    """Run the rows of the tensors, together with those of other requests."""
    return await _infer(call, body, name)


@router.post(
    "/v2/models/{name}/versions/{version}/infer", response_model=InferAnswer, summary="Run tensors on a version"
)
async def infer_with(
    call: Call, body: Annotated[InferRequest, InferBody], name: InferModel, version: InferVersion
) -> WholeAnswer:
    """Do the same with the version that is named."""
    return await _infer(call, body, name, version)


async def _infer(call: Call, body: InferRequest, name: str, version: str | None = None) -> WholeAnswer:
    if body.model_name not in (None, name):
        raise InvalidRequest(f"is {body.model_name!r}; the path says {name!r}", field="model_name")
    engine, settings = call.service.engines.get(name, version), call.service.settings
    check_rows(body.inputs, signature_of(engine), settings.max_items)
    most_s = settings.timeout_ms / 1000
    timeout_s = min(most_s, body.parameters.timeout / 1e6 or most_s)
    asked = Asked(call, body, read_tensors(body, call.tail), name, version, timeout_s)
    refuse_null(body.parameters)
    if not engine.manifest.streamable:
        inferred = await run_once(asked, engine)
    elif body.parameters.speaks_of_sequence:
        inferred = await run_in_sequence(asked)
    else:
        inferred = await run_with_tokens(asked, engine)
    return _answer(call, body, inferred)


def _answer(call: Call, body: InferRequest, inferred: Inferred) -> WholeAnswer:
    """Raises: NotFinite for an output that JSON cannot carry."""
    signature = signature_of(inferred.engine)
    _tell_texts(inferred)
    shown, tail = [], []
    for name, wanted in _wanted(body, inferred, signature):
        values, datatype = _values(name, inferred, signature), signature.outputs[name].datatype
        made = signature.made.get(name)
        if wanted.classification:
            values, datatype = classify(values, wanted.classification, None if made is None else made.labels), BYTES
        elif made is not None:
            values = values.transpose(made.graph_order)
        binary = wanted.binary_data
        if body.parameters.binary_data_output if binary is None else binary:
            described, raw = show_binary(name, datatype, values)
            shown.append(described)
            tail.append(raw)
        else:
            shown.append(show_json(name, datatype, values))
    manifest = inferred.engine.manifest
    content: dict[str, Any] = {"model_name": manifest.name, "model_version": manifest.version}
    if body.id is not None:
        content["id"] = body.id
    if inferred.parameters:
        content["parameters"] = inferred.parameters
    content["outputs"] = shown
    head = to_json(content, bytes_mode="base64")
    call.facts = {"rows": len(inferred.rows)}
    headers = [server_timing(inferred.timing, time.monotonic() - call.started)]
    if not tail:
        return WholeAnswer(head, 200, headers, JSON)
    headers.append((b"inference-header-content-length", b"%d" % len(head)))
    return WholeAnswer(b"".join((head, *tail)), 200, headers, OCTETS)


def _wanted(body: InferRequest, inferred: Inferred, signature: Signature) -> list[tuple[str, OutputParameters]]:
    """Return the outputs to show, and how; the token of a row that asks for no tensor of it goes into parameters."""
    as_tensor = inferred.tokens is not None and (
        len(inferred.rows) > 1 or any(tensor.name == STATE_TOKEN for tensor in (*body.inputs, *(body.outputs or ())))
    )
    if inferred.tokens is not None and not as_tensor:
        inferred.parameters[STATE_TOKEN] = inferred.tokens[0]
    if body.outputs:
        return [(output.name, output.parameters) for output in body.outputs]
    names = [name for name in signature.outputs if name != STATE_TOKEN or as_tensor or name in signature.made]
    return [(name, NO_OUTPUT_PARAMETERS) for name in names]


def _values(name: str, inferred: Inferred, signature: Signature) -> Array:
    if name in signature.made:
        return join_rows(name, inferred.answers, signature)
    if name == LENGTHS:
        return np.array([len(row.steps) for row in inferred.rows], np.int32)
    assert inferred.tokens is not None
    return np.array([urlsafe_b64encode(token).decode() for token in inferred.tokens], object)


def _tell_texts(inferred: Inferred) -> None:
    """Count what was read of texts, and tell which of them were cut."""
    rows = [row for row in inferred.rows if row.encoding is not None]
    if not rows:
        return
    vocabulary = inferred.engine.model.vocabulary
    assert vocabulary is not None
    cut = []
    for index, row in enumerate(rows):
        assert row.encoding is not None
        ids, tokens = row.encoding.ids, len(row.steps)
        inferred.engine.metrics.text_read(vocabulary.unknown_ratio(ids[:tokens]))
        if len(ids) > tokens:
            cut.append(index)
    if cut:
        inferred.parameters["truncated_rows"] = ",".join(map(str, cut))
