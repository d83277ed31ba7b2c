"""GET /v1/models, /v1/models/{name} and /v1/info: what is served, and within which limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service import __version__
from service.contract.manifest import Arithmetic, Forecast, Task, Text
from service.contract.provenance import Metric, Network, Provenance
from service.contract.tensors import State, Tensor
from service.engine.engine import Engine
from service.model import onnx_session as runtime
from service.web.context import caller_of
from service.web.error_shapes import error_responses

router = APIRouter(tags=["models"], responses=error_responses(401))


class ModelLine(BaseModel):
    name: str
    version: str = Field(description="the newest, which answers new work unless it is retiring")
    versions: list[str] = Field(description="all that are loaded; older ones serve their own state tokens")
    retiring: dict[str, datetime] = Field(description="versions that go on with their state tokens until then, UTC")
    task: Task
    streamable: bool
    description: str
    device: str


class ModelList(BaseModel):
    models: list[ModelLine]


class ModelFacts(ModelLine):
    """What the manifest says of the model. Units: state_bytes is one session's state, token_chars its sealed token."""

    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...]
    state_bytes: int
    arithmetic: Arithmetic
    text: Text | None
    forecast: Forecast | None
    networks: tuple[Network, ...]
    metrics: tuple[Metric, ...]
    provenance: Provenance | None


class Info(BaseModel):
    """Every limit, device and version of this service; limits have the names and units of their settings."""

    version: str
    versions: dict[str, str]
    devices: dict[str, str]
    workers: int = Field(description="processes that serve, each with limits of its own")
    limits: dict[str, int]


@router.get("/v1/models", response_model=ModelList, summary="List the models")
async def list_models(request: Request) -> dict[str, Any]:
    """List each loaded model with its versions."""
    return {"models": [_line(request, engine) for engine in caller_of(request.scope).service.engines.latest]}


@router.get("/v1/models/{name}", response_model=ModelFacts, responses=error_responses(404), summary="Describe a model")
async def describe_model(request: Request, name: str) -> dict[str, Any]:
    """Return a model's manifest facts, figures and provenance."""
    engine = caller_of(request.scope).service.engines.get(name)
    manifest = engine.manifest
    metrics = manifest.provenance.metrics if manifest.provenance is not None else ()
    return {**dict(manifest), **_line(request, engine), "state_bytes": manifest.state_bytes, "metrics": metrics}


@router.get("/v1/info", response_model=Info, summary="Show limits, devices and versions")
async def info(request: Request) -> dict[str, Any]:
    """Return every limit, device and version of this service."""
    service = caller_of(request.scope).service
    return {
        "version": __version__,
        "versions": {"onnxruntime": runtime.VERSION, "numpy": np.__version__},
        "devices": {engine.manifest.name: engine.model.session.device for engine in service.engines.latest},
        "workers": service.settings.workers,
        "limits": service.settings.limits(),
    }


def _line(request: Request, engine: Engine) -> dict[str, Any]:
    manifest = engine.manifest
    versions = caller_of(request.scope).service.engines.versions(manifest.name)
    ends_ms = {other.manifest.version: other.ends_ms for other in versions}
    return {
        "name": manifest.name,
        "version": manifest.version,
        "versions": list(ends_ms),
        "retiring": {version: end // 1000 for version, end in ends_ms.items() if end is not None},
        "task": manifest.task,
        "streamable": manifest.streamable,
        "description": manifest.description,
        "device": engine.model.session.device,
    }
