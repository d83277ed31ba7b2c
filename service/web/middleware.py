"""What every request and every WebSocket passes before its handler.

It knows ASGI and callers, not routes, bodies or models. Invariants: every answer carries `X-Request-Id`; a request
leaves one line in the log, one count in the metrics and, where there are any, one trace, when its answer has been sent
to the end, or its client has left; an exception that nobody expected becomes a 500 with its cause in the log. What is
no whole HTTP request never comes here: `service.web.heads` answers it.
`service.web.door` keeps these promises for what is refused from its head.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InternalError, RequestError
from service.web.context import Call, Caller, Service, forget_caller
from service.web.error_shapes import ErrorAnswers
from service.web.origins import check_origin
from service.web.request_lines import LINES

log = logging.getLogger("baton.http")

CLIENT_LEFT = 499  # for the log and the metrics; nobody is there to be answered
OPENED = 101  # a WebSocket
STARTS = {"http.response.start", "websocket.http.response.start", "websocket.accept"}


def add_id(caller: Caller, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"x-request-id", caller.request_id.encode()))


def record(caller: Caller, status: int, *, traced: bool = True) -> None:
    """Count a request that has ended, trace it, and write its line in the log."""
    seconds = time.monotonic() - caller.started
    service = caller.service
    service.metrics.answered(caller.endpoint, status, None if status == OPENED else seconds)
    if traced and service.tracer is not None:
        service.tracer.end_request(caller, status)
    if service.log_request is not None:
        service.log_request(LINES[service.settings.log_format](caller, status, seconds))


class RequestScope:
    """The outermost layer: the request's id, its tenant, its errors, its line in the log and its count.

    `open_paths` are for everybody, and not traced; elsewhere a caller is named or refused.
    """

    def __init__(self, app: ASGIApp, service: Service, errors: ErrorAnswers, open_paths: Collection[str]) -> None:
        self._app, self._service, self._errors, self._open_paths = app, service, errors, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        caller = Call(scope, receive, self._service) if scope["type"] == "http" else Caller(scope, self._service)
        status, ended = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, ended
            kind = message["type"]
            if kind in STARTS:
                status = message.get("status", OPENED)
                add_id(caller, message.setdefault("headers", []))
            elif kind == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            if caller.path not in self._open_paths:
                check_origin(caller)
                await caller.authenticate()
            await self._app(scope, receive, send_with_id)
            if status != OPENED and not ended:
                raise ClientDisconnect
        except ClientDisconnect:
            status, caller.facts = CLIENT_LEFT, {"note": "the client left before it was answered"}
        except Exception as error:  # the last place that can still answer
            if not isinstance(error, RequestError):
                log.exception("request %s failed", caller.request_id)
                error = InternalError("the service failed; the log has the cause")
            elif status:
                log.error("request %s failed after its answer had begun: %s", caller.request_id, error.code)
            if status:
                caller.fail(error)
                raise
            await self._errors.answer(caller, error)(scope, receive, send_with_id)
        finally:
            record(caller, status, traced=caller.path not in self._open_paths)
            forget_caller(scope)
