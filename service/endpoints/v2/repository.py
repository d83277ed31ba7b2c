"""POST /v2/repository/index, and /v2/repository/models/{name}/load and /unload, which ask for the admin key.

A model is served as its directory has it: nothing that comes with a request changes what is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from service.endpoints.v2.errors import error_texts
from service.endpoints.v2.examples import COMPRESSED, ModelName
from service.engine.loader import Loader
from service.engine.orders import Orders
from service.errors import Draining, InvalidRequest, LoadFailed, Unauthorized, UnknownModel
from service.model.repository import list_versions
from service.settings import Settings
from service.web.auth import ADMIN_ASKED
from service.web.bodies import read_bytes, refuse_encodings
from service.web.context import call_of
from service.web.error_examples import BODY_ERRORS, ORIGIN_REFUSED, UNKNOWN_MODEL
from service.web.schema import Strict, read_whole

TAG = "open inference protocol"
router = APIRouter(
    tags=[TAG],
    responses=error_texts(
        *BODY_ERRORS, ORIGIN_REFUSED, COMPRESSED, InvalidRequest("redy is no member of this request", field="redy")
    ),
)
admin_router = APIRouter(
    prefix="/v2/repository/models",
    tags=[TAG],
    responses=error_texts(
        *BODY_ERRORS,
        ORIGIN_REFUSED,
        COMPRESSED,
        Unauthorized(ADMIN_ASKED),
        InvalidRequest(
            "a model is served as its directory has it; publish the change as a new version", field="parameters.config"
        ),
        LoadFailed("model 'broken': version 1: schema_version: Field required"),
        UNKNOWN_MODEL,
        Draining("the service is shutting down, and not every worker has followed the order", retry_after_ms=1000),
    ),
)

State = Literal["READY", "LOADING", "UNAVAILABLE"]
S = TypeVar("S", bound=Strict)


class IndexRequest(Strict):
    ready: bool = Field(default=False, description="leave out what does not answer new work")


class OrderRequest(Strict):
    parameters: dict[str, Any] = Field(
        default={}, description="unload_dependents, true or false, is let pass: no model depends on another"
    )


class IndexLine(BaseModel):
    name: str
    version: str
    state: State
    reason: str = Field(description="why it does not answer new work")


def _body(kind: type[Strict], **examples: Any) -> dict[str, Any]:
    """Return what OpenAPI shows of a body that may be left out."""
    return {
        "requestBody": {"content": {"application/json": {"schema": kind.model_json_schema(), "examples": examples}}}
    }


ORDER = _body(OrderRequest, sentiment={"summary": "As clients of Triton send it", "value": {}})


@router.post(
    "/v2/repository/index",
    response_model=list[IndexLine],
    openapi_extra=_body(
        IndexRequest,
        all={"summary": "Every version", "value": {}},
        ready={"summary": "Those that answer new work", "value": {"ready": True}},
    ),
    summary="List every version, loaded or not",
)
async def index(request: Request) -> list[IndexLine]:
    """List the versions that are loaded, and those on disk that are not, with the reason."""
    wanted = await _read(request, IndexRequest)
    service = call_of(request.scope).service
    lines = await asyncio.to_thread(lambda: list(_lines(service.loader, service.settings)))
    lines.sort(key=lambda line: (line.name, len(line.version), line.version))
    return [line for line in lines if line.state == "READY" or not wanted.ready]


@admin_router.post(
    "/{name}/load", openapi_extra=ORDER, response_class=Response, summary="Load a model and its new versions"
)
async def load(request: Request, name: ModelName) -> Response:
    """Answer when every worker serves the model as its directory has it."""
    await (await _orders(request, name)).load(name)
    return Response()


@admin_router.post("/{name}/unload", openapi_extra=ORDER, response_class=Response, summary="Unload a model")
async def unload(
    request: Request,
    name: Annotated[str, Path(description="`sentiment`, for one; not filled in, since the call takes the model away")],
) -> Response:
    """Answer when no worker begins anything with the model; what clients carry of it is served until it expires."""
    await (await _orders(request, name)).unload(name)
    return Response()


async def _read(request: Request, kind: type[S]) -> S:
    """Return the request's body, which may be empty.

    Raises: RequestError.
    """
    call = call_of(request.scope)
    refuse_encodings(call)
    body = await read_bytes(call)
    return read_whole(kind, body) if body else kind()


async def _orders(request: Request, name: str) -> Orders:
    """Return who takes an order for the model that a request names.

    Raises: InvalidRequest for what would override files; UnknownModel for a model that is neither loaded nor on disk.
    """
    for parameter, value in (await _read(request, OrderRequest)).parameters.items():
        field = f"parameters.{parameter}"
        if parameter == "config" or parameter.startswith("file:"):
            message = "a model is served as its directory has it; publish the change as a new version"
            raise InvalidRequest(message, field=field)
        if parameter != "unload_dependents":
            raise InvalidRequest(f"{field} is no parameter of this call", field=field)
        if not isinstance(value, bool):
            raise InvalidRequest(f"{field} must be true or false", field=field)
    service = call_of(request.scope).service
    loaded = {engine.manifest.name for engine in service.engines.all}
    there = loaded | {path.parent.name for path in await asyncio.to_thread(list_versions, service.settings.models_dir)}
    if name not in there:
        raise UnknownModel(f"no model is called {name!r}; there is {', '.join(sorted(there)) or 'none'}")
    assert service.orders is not None  # or these calls would not exist
    return service.orders


def _lines(loader: Loader, settings: Settings) -> Iterator[IndexLine]:
    unloaded, seen = loader.unloaded(), set()
    for engine in loader.engines.all:
        name, version = engine.manifest.name, engine.manifest.version
        seen.add(settings.models_dir / name / version)
        if engine.fenced:
            yield IndexLine(name=name, version=version, state="UNAVAILABLE", reason="a run did not end; load it anew")
        elif engine.ends_ms is None:
            yield IndexLine(name=name, version=version, state="READY", reason="")
        else:
            end = datetime.fromtimestamp(engine.ends_ms // 1000, UTC).isoformat()
            reason = f"{'unloaded' if name in unloaded else 'retiring'}; its sessions may go on until {end}"
            yield IndexLine(name=name, version=version, state="UNAVAILABLE", reason=reason)
    for directory in list_versions(settings.models_dir):
        if directory not in seen:
            name, version = directory.parent.name, directory.name
            if directory in loader.directory.loading:
                yield IndexLine(name=name, version=version, state="LOADING", reason="on trial, or being loaded")
            else:
                reason = "unloaded" if name in unloaded else str(loader.directory.failure(name) or "not loaded yet")
                yield IndexLine(name=name, version=version, state="UNAVAILABLE", reason=reason)
