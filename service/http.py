"""HTTP around the endpoints: request ids, bodies, errors, access log and request metrics.

It knows ASGI and FastAPI, not models. Invariants: every answer carries `X-Request-Id`; every error has the same shape;
every request leaves one line in the log and one count in the metrics; an exception that nobody expected becomes a 500
with its cause in the log. What is no HTTP request at all never comes here: uvicorn answers it with a bare 400.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import Authenticator
from service.batching import Timing
from service.engine import Engines
from service.errors import (
    MOST_MESSAGE_CHARS,
    BodyTimeout,
    BodyTooLarge,
    InternalError,
    MalformedJson,
    MethodNotAllowed,
    NotFound,
    RequestError,
    Unauthorized,
    UnsupportedMediaType,
)
from service.metrics import Metrics
from service.settings import Settings
from service.state.token import Sealer
from service.wire import BatchRequest, ErrorAnswer, parse

log = logging.getLogger("baton.http")
access_log = logging.getLogger("baton.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_LEFT = 499  # for the log and the metrics; nobody is there to be answered
NO_CHARS_OF_A_PATH = re.compile(r"[^!-~]")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI shows for `statuses`."""
    return {status: {"model": ErrorAnswer} for status in statuses}


BODY_ERRORS = error_responses(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)


@dataclass(frozen=True)
class Service:
    """The parts that handlers work with; `create_app` puts them together."""

    settings: Settings
    engines: Engines
    sealer: Sealer
    metrics: Metrics
    authenticator: Authenticator


@dataclass(frozen=True, slots=True)
class Reply:
    """An endpoint's answer; `log` joins the request's line in the log."""

    content: dict[str, Any]
    status: int
    timing: Timing
    total_s: float
    log: str = ""


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def require_tenant(request: Request) -> None:
    """Name the caller's tenant in `request.state.tenant`.

    Raises: Unauthorized.
    """
    request.state.tenant = service_of(request).authenticator.tenant(request.headers.get("authorization"))


class BodyRoute(APIRoute):
    """A route whose endpoint is `async (request, body) -> Reply`, `body` a `BatchRequest` of its own.

    The body is validated straight from bytes and the answer dumped straight to bytes; FastAPI still draws the OpenAPI
    page from the same models.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request, BatchRequest], Awaitable[Reply]] = self.endpoint
        kind: type[BatchRequest] = get_type_hints(self.endpoint)["body"]

        async def handle(request: Request) -> Response:
            service = service_of(request)
            await require_tenant(request)
            body = parse(kind, await _read_json(request, service.settings))
            reply = await endpoint(request, body)
            request.state.log = reply.log
            headers = {"server-timing": _server_timing(reply)}
            return Response(to_json(reply.content), reply.status, headers, media_type="application/json")

        return handle


async def _read_json(request: Request, settings: Settings) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"content encoding {encoding!r}; send the JSON as it is")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"content type {media_type or '(none)'!r}; send application/json")
    announced = request.headers.get("content-length", "")
    too_large = BodyTooLarge(f"the body is larger than {settings.max_body_bytes} bytes", limit=settings.max_body_bytes)
    if announced.isdecimal() and int(announced) > settings.max_body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.timeout_ms / 1000):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise too_large
    except TimeoutError:
        message = f"the body did not arrive within {settings.timeout_ms} ms"
        raise BodyTimeout(message, limit=settings.timeout_ms) from None
    if not body and "upgrade" in request.headers:
        upgrade = request.headers["upgrade"]
        raise MalformedJson(f"the header 'Upgrade: {upgrade}' made the server lose the body; send plain HTTP/1.1")
    return bytes(body)


def _server_timing(reply: Reply) -> str:
    timing = reply.timing
    padding = timing.padded_cells / timing.cells if timing.cells else 1.0
    return (
        f"queue;dur={1e3 * timing.queue_s:.3f}, run;dur={1e3 * timing.run_s:.3f}, total;dur={1e3 * reply.total_s:.3f}, "
        f'rows;desc="{timing.rows}", batch;desc="{timing.batch_rows}", padding;desc="{padding:.3f}"'
    )


def error_response(request: Request, error: RequestError) -> Response:
    """Show `error` the way every error is shown, and count it."""
    service_of(request).metrics.rejected.labels(error.code).inc()
    request.state.log = f"code={error.code} message={str(error)!r}"
    content = {"error": {**error.body(), "request_id": request.state.request_id}}
    headers = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_ms / 1000))
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return Response(to_json(content), error.status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Give every way of failing the same shape."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(request, error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            answer = error_response(request, MethodNotAllowed(f"{request.method} is not for this path; use {allowed}"))
            answer.headers["allow"] = allowed
            return answer
        if error.status_code == 404:
            return error_response(request, NotFound(f"there is nothing at {_printable_path(request)}; see /docs"))
        raise error

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _printable_path(request: Request) -> str:
    """Return the path as the client wrote it, fit for a log line."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return NO_CHARS_OF_A_PATH.sub("?", raw.decode("latin-1"))[:MOST_MESSAGE_CHARS]


class RequestScope:
    """Middleware: the request's id, its line in the log, its count, and the answer to what nobody expected."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request = Request(scope, receive)
        given = Headers(scope=scope).get("x-request-id", "")
        request.state.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request.state.log = ""
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request.state.request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status, request.state.log = CLIENT_LEFT, "the client left before its request was complete"
        except Exception:  # the last place that can still answer
            log.exception("request %s failed", request.state.request_id)
            if status:
                raise
            await error_response(request, InternalError("the service failed; the log has the cause"))(
                scope, receive, send_with_id
            )
        finally:
            self._record(request, status, time.perf_counter() - started)

    def _record(self, request: Request, status: int, seconds: float) -> None:
        route = request.scope.get("route")
        endpoint = getattr(route, "path", "unmatched")
        metrics = service_of(request).metrics
        metrics.requests.labels(endpoint, status).inc()
        metrics.request_s.labels(endpoint).observe(seconds)
        line = (
            f"{request.method} {_printable_path(request)} {status} {1e3 * seconds:.1f}ms id={request.state.request_id}"
        )
        access_log.info("%s", f"{line} {request.state.log}".rstrip())
