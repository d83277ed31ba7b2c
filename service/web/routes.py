"""HTTP around the endpoints: request ids, bodies, errors, access log and request metrics.

It knows ASGI and FastAPI, not models. Invariants: every answer carries `X-Request-Id`; every error has the same shape;
every request leaves one line in the log and one count in the metrics; an exception that nobody expected becomes a 500
with its cause in the log. What is no whole HTTP request never comes here: uvicorn answers it with a bare
400, and `service.web.heads` with 408 or 431.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.batching.submission import Timing
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
    UpgradeRequired,
)
from service.settings import Settings
from service.web.access_log import ACCESS
from service.web.context import Call, Caller, Service, call_of
from service.web.schema import BatchRequest, ErrorAnswer, parse

log = logging.getLogger("baton.http")
access_log = logging.getLogger(ACCESS)

CLIENT_LEFT = 499  # for the log and the metrics; nobody is there to be answered
LATE = "the body is late"  # why a task is cancelled
DUE_HEADERS: dict[type[RequestError], dict[str, str]] = {
    Unauthorized: {"www_authenticate": "Bearer"},
    UpgradeRequired: {"upgrade": "websocket", "connection": "upgrade"},
}
NO_CHARS_OF_A_PATH = re.compile(r"[^!-~]")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI shows for `statuses`."""
    return {status: {"model": ErrorAnswer} for status in statuses}


BODY_ERRORS = error_responses(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)


@dataclass(slots=True)
class Reply:
    """An endpoint's answer."""

    content: dict[str, Any]
    status: int
    timing: Timing
    total_s: float


class JsonAnswer(Response):
    """An answer that is JSON already; starlette's own would build these few headers for several times the cost."""

    def __init__(self, body: bytes, status: int, **headers: str) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()),
        ]


class BodyRoute(APIRoute):
    """A route whose endpoint is `async (call, body) -> Reply`, `body` a `BatchRequest` of its own.

    The body is validated straight from bytes and the answer dumped straight to bytes; FastAPI still draws the OpenAPI
    page from the same models. `RequestScope` calls `respond` without going through FastAPI's router.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            return await self.respond(call_of(request))

        return handle

    @cached_property
    def _body(self) -> type[BatchRequest]:
        body: type[BatchRequest] = get_type_hints(self.endpoint)["body"]
        return body

    async def respond(self, call: Call) -> JsonAnswer:
        """Answer the call.

        Raises: RequestError, to be shown by `error_response`; ClientDisconnect when nobody is there to be answered.
        """
        call.authenticate()
        call.service.engines.admit(self._body.task)  # a refusal should cost nothing that can be spared
        body, call.rejected = parse(self._body, await _read_json(call), most_items=call.service.settings.max_items)
        reply: Reply = await self.endpoint(call, body)
        headers = {"server_timing": _server_timing(reply), **_retry_after(reply.content.get("error", {}))}
        return JsonAnswer(to_json(reply.content, bytes_mode="base64"), reply.status, **headers)


async def _read_json(call: Call) -> bytes:
    settings = call.service.settings
    encoding = call.field(b"content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"content encoding {encoding!r}; send the JSON as it is")
    media_type = call.field(b"content-type").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"content type {media_type or '(none)'!r}; send application/json")
    announced = call.field(b"content-length")
    if announced.isdecimal() and int(announced) > settings.max_body_bytes:
        raise _too_large(settings)
    body = await _read_body(call, settings)
    if not body and (upgrade := call.field(b"upgrade")):
        raise MalformedJson(f"the header 'Upgrade: {upgrade}' made the server lose the body; send plain HTTP/1.1")
    return body


async def _read_body(call: Call, settings: Settings) -> bytes:
    task = asyncio.current_task()
    assert task is not None
    timer = asyncio.get_running_loop().call_later(settings.timeout_ms / 1000, task.cancel, LATE)
    chunks, size = [], 0
    try:
        async for chunk in call.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > settings.max_body_bytes:
                raise _too_large(settings)
    except asyncio.CancelledError as stop:  # asyncio.timeout does the same for five times the cost
        if stop.args != (LATE,):
            raise
        task.uncancel()
        message = f"the body did not arrive within {settings.timeout_ms} ms"
        raise BodyTimeout(message, limit=settings.timeout_ms) from None
    finally:
        timer.cancel()
    return b"".join(chunks)


def _too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {settings.max_body_bytes} bytes", limit=settings.max_body_bytes)


def _server_timing(reply: Reply) -> str:
    timing = reply.timing
    padding = timing.padded_cells / timing.cells if timing.cells else 1.0
    return (
        f"queue;dur={1e3 * timing.queue_s:.3f}, run;dur={1e3 * timing.run_s:.3f}, total;dur={1e3 * reply.total_s:.3f}, "
        f'rows;desc="{timing.rows}", batch;desc="{timing.batch_rows}", padding;desc="{padding:.3f}"'
    )


def _retry_after(error: dict[str, Any]) -> dict[str, str]:
    return {"retry_after": str(math.ceil(error["retry_after_ms"] / 1000))} if "retry_after_ms" in error else {}


def error_response(call: Caller, error: RequestError) -> JsonAnswer:
    """Show `error` the way every error is shown, and count it."""
    call.service.metrics.refused(error.code)
    call.log = f"code={error.code} message={str(error)!r}"
    content = {"error": {**error.body(), "request_id": call.request_id}}
    headers = _retry_after(content["error"]) | DUE_HEADERS.get(type(error), {})
    if call.field(b"upgrade"):
        headers["connection"] = "close"  # the body that was lost on the way in may still come, as another request
    return JsonAnswer(to_json(content), error.status, **headers)


def install_error_handlers(app: FastAPI) -> None:
    """Give every way of failing the same shape."""

    async def on_request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(call_of(request), error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            wrong = MethodNotAllowed(f"{request.method} is not for this path; use {allowed}")
            answer = error_response(call_of(request), wrong)
            answer.headers["allow"] = allowed
            return answer
        if error.status_code == 404:
            return error_response(
                call_of(request), NotFound(f"there is nothing at {_printable_path(request)}; see /docs")
            )
        raise error

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _printable_path(request: Request) -> str:
    """Return the path as the client wrote it, fit for a log line."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return NO_CHARS_OF_A_PATH.sub("?", raw.decode("latin-1"))[:MOST_MESSAGE_CHARS]


class RequestScope:
    """The outermost layer: the request's id, its line in the log, its count, and the answer to what nobody expected.

    A POST to the path of one of `routes` goes straight to it; anything else goes through `app`.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: Iterable[BodyRoute]) -> None:
        self._app, self._service = app, service
        self._direct = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        call = Call(scope, receive, self._service)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", call.request_id.encode()))
            await send(message)

        try:
            route = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
            if route is None:
                await self._app(scope, receive, send_with_id)
            else:
                await (await _respond(route, call))(scope, receive, send_with_id)
        except ClientDisconnect:
            status, call.log = CLIENT_LEFT, "the client left before it was answered"
        except Exception:  # the last place that can still answer
            log.exception("request %s failed", call.request_id)
            if status:
                raise
            failure = InternalError("the service failed; the log has the cause")
            await error_response(call, failure)(scope, receive, send_with_id)
        finally:
            self._record(call, status)

    def _record(self, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.started
        endpoint = call.scope["path"] if call.scope["path"] in self._direct else _endpoint(call.scope)
        self._service.metrics.answered(endpoint, status, seconds)
        if access_log.isEnabledFor(logging.INFO):
            line = f"{call.method} {_printable_path(call)} {status} {1e3 * seconds:.1f}ms id={call.request_id}"
            access_log.info(f"{line} {call.log}".rstrip())


async def _respond(route: BodyRoute, call: Call) -> Response:
    try:
        return await route.respond(call)
    except RequestError as error:
        return error_response(call, error)


def _endpoint(scope: Scope) -> str:
    """Return the path of the route that took the request, as it was declared."""
    return getattr(scope.get("route"), "path", "unmatched")
