"""GET /v1/models, /v1/models/{name} with its card and pictures, and /v1/info: what is served, within which limits."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from service import __version__
from service.contract.manifest import Task
from service.contract.members import Arithmetic
from service.contract.parts import AnyFeedback, Forecast, Signal, Start, Text
from service.contract.provenance import Metric, Network, Provenance
from service.contract.tensors import State, Tensor
from service.engine.engine import Engine
from service.errors import NotFound
from service.model import onnx_session as runtime
from service.model.cards import CARD_FILE, MOST_CARD_BYTES, PICTURE_TYPES, REPORT_FOLDER, find_card, find_pictures
from service.state.token import token_chars
from service.web.context import caller_of
from service.web.error_examples import CALLER_ERRORS, UNKNOWN_MODEL, error_responses
from service.web.files import answer_file

router = APIRouter(tags=["models"], responses=error_responses(*CALLER_ERRORS))
POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # a picture opened by itself may hold a script
Name = Annotated[str, Path(openapi_examples={"forecast": {"value": "forecast"}})]
File = Annotated[str, Path(openapi_examples={"forecast": {"value": "weekly.svg"}})]
CARD = error_responses(UNKNOWN_MODEL, NotFound(f"pump 1 has no {CARD_FILE} in its directory"))
CARD[200] = {
    "description": "The card",
    "content": {
        "text/markdown": {
            "schema": {"type": "string"},
            "example": "# forecast 4\n\nForecasts the next 48 values of any series...",
        }
    },
}
PICTURE = error_responses(
    UNKNOWN_MODEL,
    NotFound(
        "spam 2 has no picture 'weekly.svg'; there are confusion.svg, learning-curves.svg, reliability.svg",
        field="file",
    ),
)
PICTURE[200] = {
    "description": "The picture",
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in dict.fromkeys(PICTURE_TYPES.values())
    },
}


class ModelLine(BaseModel):
    name: str
    version: str = Field(
        description="what answers new work, unless it is retiring: the newest, or the one that serve.json names"
    )
    versions: list[str] = Field(description="all that are loaded; the others serve their own state tokens")
    retiring: dict[str, datetime] = Field(description="versions that go on with their state tokens until then, UTC")
    task: Task
    answers: tuple[str, ...] = Field(description="the tasks whose calls take the model: its own, then others")
    streamable: bool
    description: str
    device: str


class ModelList(BaseModel):
    models: list[ModelLine]


class ModelFacts(ModelLine):
    """What the manifest says of the model. Units: state_bytes is one session's state, to which memory_bytes are added
    for each entry of its condition."""

    sha256: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    states: tuple[State, ...]
    state_bytes: int
    memory_bytes: int
    token_chars: int | None = Field(
        description="of a token that carries the state, without its memory; null where there are no sessions"
    )
    arithmetic: Arithmetic
    text: Text | None
    forecast: Forecast | None
    signal: Signal | None
    feedback: AnyFeedback | None
    start: Start | None
    networks: tuple[Network, ...]
    metrics: tuple[Metric, ...]
    provenance: Provenance | None
    card: bool = Field(description="whether /v1/models/{name}/card has one")
    pictures: tuple[str, ...] = Field(description="the files that /v1/models/{name}/pictures/{file} has")


class Info(BaseModel):
    """Every limit, device and version of this service; limits have the names and units of their settings."""

    version: str
    versions: dict[str, str]
    devices: dict[str, str]
    workers: int = Field(description="processes that serve, each with limits of its own")
    limits: dict[str, int]
    horizons: dict[str, int] = Field(description="the most values that each forecaster forecasts")


@router.get("/v1/models", response_model=ModelList, summary="List the models")
async def list_models(request: Request) -> dict[str, Any]:
    """List each loaded model with its versions."""
    return {"models": [_line(request, engine) for engine in caller_of(request.scope).service.engines.latest]}


@router.get(
    "/v1/models/{name}",
    response_model=ModelFacts,
    responses=error_responses(UNKNOWN_MODEL),
    summary="Describe a model",
)
async def describe_model(request: Request, name: Name) -> dict[str, Any]:
    """Return a model's manifest facts, figures and provenance."""
    engine = caller_of(request.scope).service.engines.get(name)
    manifest = engine.manifest
    directory = engine.model.file.parent
    return {
        **dict(manifest),
        **_line(request, engine),
        "state_bytes": manifest.state_bytes,
        "memory_bytes": manifest.memory_bytes,
        "token_chars": token_chars(manifest.state_bytes) if manifest.streamable else None,
        "metrics": manifest.provenance.metrics if manifest.provenance is not None else (),
        "card": await asyncio.to_thread(find_card, directory) is not None,
        "pictures": tuple(await asyncio.to_thread(find_pictures, directory)),
    }


@router.get(
    "/v1/models/{name}/card",
    response_class=Response,
    responses=CARD,
    summary="Read a model's card",
)
async def read_card(request: Request, name: Name) -> Response:
    """Return the card of the version that answers new work, in Markdown."""
    engine = caller_of(request.scope).service.engines.get(name)
    card = await asyncio.to_thread(find_card, engine.model.file.parent)
    if card is None:
        raise NotFound(f"{name} {engine.manifest.version} has no {CARD_FILE} in its directory")
    size_bytes = (await asyncio.to_thread(card.stat)).st_size
    if size_bytes > MOST_CARD_BYTES:
        raise NotFound(
            f"the {CARD_FILE} of {name} {engine.manifest.version} has {size_bytes} bytes; "
            f"one of at most {MOST_CARD_BYTES} is given out"
        )
    return answer_file(card, request.scope, {"Content-Security-Policy": POLICY})


@router.get(
    "/v1/models/{name}/pictures/{file}",
    response_class=Response,
    responses=PICTURE,
    summary="See a picture of a model's report",
)
async def see_picture(request: Request, name: Name, file: File) -> Response:
    """Return a picture of the version that answers new work; the model's facts list them."""
    engine = caller_of(request.scope).service.engines.get(name)
    pictures = await asyncio.to_thread(find_pictures, engine.model.file.parent)
    if file not in pictures:
        there = ", ".join(pictures) or f"none in the folder {REPORT_FOLDER} of its directory"
        raise NotFound(f"{name} {engine.manifest.version} has no picture {file!r}; there are {there}", field="file")
    return answer_file(pictures[file], request.scope, {"Content-Security-Policy": POLICY})


@router.get("/v1/info", response_model=Info, summary="Show limits, devices and versions")
async def info(request: Request) -> dict[str, Any]:
    """Return every limit, device and version of this service."""
    service = caller_of(request.scope).service
    return {
        "version": __version__,
        "versions": {"onnxruntime": runtime.VERSION, "numpy": np.__version__},
        "devices": {engine.manifest.name: engine.model.device for engine in service.engines.latest},
        "workers": service.settings.worker_count,
        "limits": service.settings.limits(),
        "horizons": {
            engine.manifest.name: engine.manifest.forecast.horizon
            for engine in service.engines.latest
            if engine.manifest.forecast is not None
        },
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
        "answers": manifest.answers,
        "streamable": manifest.streamable,
        "description": manifest.description,
        "device": engine.model.device,
    }
