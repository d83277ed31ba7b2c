"""GET /v2 and what is below it: whether server and models are ready, and what they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service import __version__
from service.endpoints.v2.errors import error_texts
from service.endpoints.v2.examples import ModelName, ModelVersion
from service.endpoints.v2.signature import Declared, signature_of
from service.engine.engine import Engine
from service.errors import Draining, NotReady
from service.web.context import caller_of
from service.web.error_examples import CALLER_ERRORS, READY_ERRORS, UNKNOWN_MODEL

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"  # as Triton calls them
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "sequence",
    "sequence(string_id)",
    "statistics",
)
TYPES = {"BYTES": "TYPE_STRING"}

MODEL, VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
OF_MODEL = error_texts(UNKNOWN_MODEL)
OF_READY = error_texts(UNKNOWN_MODEL, *READY_ERRORS)

health = APIRouter(tags=["open inference protocol"])
router = APIRouter(tags=["open inference protocol"], responses=error_texts(*CALLER_ERRORS))


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(Ready):
    name: str


class ServerFacts(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorFacts(BaseModel):
    """A tensor; -1 stands for an axis of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelFacts(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorFacts]
    outputs: list[TensorFacts]
    properties: dict[str, str] = Field(description="further tensors that a request may hold, or ask for, if any")


@health.get("/v2/health/live", response_model=Live, summary="Alive?")
async def live() -> dict[str, bool]:
    """Answer as long as the process does."""
    return {"live": True}


@health.get("/v2/health/ready", response_model=Ready, responses=error_texts(*READY_ERRORS), summary="Ready for work?")
async def ready(request: Request) -> dict[str, bool]:
    """Answer 200 while every model takes work."""
    for engine in caller_of(request.scope).service.engines.all:
        _check_ready(engine)
    return {"ready": True}


@router.get("/v2", response_model=ServerFacts, summary="Describe the server")
@router.get("/v2/", response_model=ServerFacts, include_in_schema=False)
async def describe_server() -> dict[str, Any]:
    """Return the server's name, version and the extensions of the protocol that it has."""
    return {"name": "baton", "version": __version__, "extensions": EXTENSIONS}


@router.get(MODEL, response_model=ModelFacts, responses=OF_MODEL, summary="Describe a model")
async def describe_model(request: Request, name: ModelName) -> dict[str, Any]:
    """Return a model's versions, and the names, datatypes and shapes of the tensors that every request has."""
    return _facts(request, name)


@router.get(VERSION, response_model=ModelFacts, responses=OF_MODEL, summary="Describe a version")
async def describe_version(request: Request, name: ModelName, version: ModelVersion) -> dict[str, Any]:
    """Return the same of a version that is named."""
    return _facts(request, name, version)


@router.get(f"{MODEL}/ready", response_model=ModelReady, responses=OF_READY, summary="Is the model ready?")
async def model_ready(request: Request, name: ModelName) -> dict[str, Any]:
    """Answer 200 while the model takes new work."""
    return _readiness(request, name)


@router.get(f"{VERSION}/ready", response_model=ModelReady, responses=OF_READY, summary="Is the version ready?")
async def version_ready(request: Request, name: ModelName, version: ModelVersion) -> dict[str, Any]:
    """Answer 200 while the version takes new work."""
    return _readiness(request, name, version)


@router.get(f"{MODEL}/config", responses=OF_MODEL, summary="Show a model's configuration")
async def model_configuration(request: Request, name: ModelName) -> dict[str, Any]:
    """Return the configuration as Triton's clients read it: batch size, tensors, whether it has sequences."""
    return _configuration(request, name)


@router.get(f"{VERSION}/config", responses=OF_MODEL, summary="Show a version's configuration")
async def version_configuration(request: Request, name: ModelName, version: ModelVersion) -> dict[str, Any]:
    """Return the same of a version that is named."""
    return _configuration(request, name, version)


def _facts(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    engines = caller_of(request.scope).service.engines
    signature = signature_of(engines.get(name, version))
    return {
        "name": name,
        "versions": [other.manifest.version for other in engines.versions(name)],
        "platform": PLATFORM,
        "inputs": [_shown(tensor) for tensor in _listed(signature.inputs)],
        "outputs": [_shown(tensor) for tensor in _listed(signature.outputs)],
        "properties": {
            kind: ", ".join(
                f"{each.name} {each.datatype} {[*each.shape]}" for each in tensors.values() if each.optional
            )
            for kind, tensors in (("optional_inputs", signature.inputs), ("optional_outputs", signature.outputs))
        },
    }


def _readiness(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    engine = caller_of(request.scope).service.engines.get(name, version)
    _check_ready(engine)
    if engine.ends_ms is not None:
        raise NotReady(f"model {name!r} {engine.manifest.version} is being retired", retry_after_ms=1000)
    return {"name": name, "ready": True}


def _configuration(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    service = caller_of(request.scope).service
    engine, settings = service.engines.get(name, version), service.settings
    signature = signature_of(engine)
    batched = signature.batch_first and not engine.model.one_row
    batching: dict[str, Any] = {"dynamic_batching": {}}
    if engine.manifest.streamable:
        batching = {"sequence_batching": {"max_sequence_idle_microseconds": settings.state_ttl_s * 1_000_000}}
    return {
        "name": engine.manifest.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": settings.max_items if batched else 0,
        "input": [_configured(tensor, batched) for tensor in _listed(signature.inputs)],
        "output": [_configured(tensor, batched) for tensor in _listed(signature.outputs)],
        **batching,
    }


def _listed(tensors: Mapping[str, Declared]) -> list[Declared]:
    """Return those of every request: perf_analyzer fills in each input, and asks for each output, that is listed."""
    return [tensor for tensor in tensors.values() if not tensor.optional]


def _shown(tensor: Declared) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}


def _configured(tensor: Declared, batched: bool) -> dict[str, Any]:
    data_type = TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    dims = tensor.shape[1:] if batched else tensor.shape
    return {"name": tensor.name, "data_type": data_type, "dims": dims}


def _check_ready(engine: Engine) -> None:
    """Raises: Draining or NotReady when the engine takes no work."""
    if engine.batcher.draining:
        raise Draining("the service is shutting down", retry_after_ms=1000)
    if not engine.alive:
        raise NotReady(f"no worker for {engine.manifest.name}", retry_after_ms=1000)
    engine.batcher.check_room(0, "")
