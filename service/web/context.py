"""Whoever calls the service: who asks, under which id, and for a request, whether they still wait.

It knows ASGI and the parts of the service, not routes, bodies or answers.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Receive, Scope

from service.engine.registry import Registry
from service.metrics import Metrics
from service.settings import Settings
from service.state.sessions import Sessions
from service.web.auth import Authenticator
from service.web.schema import Rejected

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
PROCESS_ID, REQUEST_NUMBERS = secrets.token_hex(8), itertools.count(1)  # make request ids that no other process makes
WATCH_AFTER_S = 0.02  # a request that waits longer than this is watched for its client leaving


@dataclass(frozen=True)
class Service:
    """The parts that handlers work with; `create_app` puts them together."""

    settings: Settings
    engines: Registry
    sessions: Sessions
    metrics: Metrics
    authenticator: Authenticator


class Caller:
    """What the service knows of whoever sent a request or opened a connection; `log` joins its line in the log."""

    def __init__(self, scope: Scope, service: Service) -> None:
        self.service, self.started = service, time.perf_counter()
        self.fields: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of a field that stands twice, the first
        given = self.fields.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if REQUEST_ID.fullmatch(given) else f"{PROCESS_ID}-{next(REQUEST_NUMBERS)}"
        self.tenant = ""
        self.log = ""

    def field(self, name: bytes, default: str = "") -> str:
        """Return the value of a header field, given by its lower-case name."""
        value = self.fields.get(name)
        return default if value is None else value.decode("latin-1")

    def authenticate(self) -> None:
        """Name the caller's tenant in `tenant`.

        Raises: Unauthorized.
        """
        self.tenant = self.service.authenticator.tenant(self.field(b"authorization"))


class Call(Caller, Request):
    """A request with what the service knows of it: items refused so far, by place.

    It stands in the ASGI scope, so that whatever handles a part of the request finds the same one.
    """

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        Request.__init__(self, scope, receive)
        Caller.__init__(self, scope, service)
        self.rejected: dict[int, Rejected] = {}
        scope["baton.call"] = self


class Watch:
    """Calls `left` should the client leave before `cancel` is called; the body must have been read.

    Watching costs more than many a run, so it begins after `WATCH_AFTER_S`.
    """

    __slots__ = ("_left", "_receive", "_task", "_timer")

    def __init__(self, call: Call, left: Callable[[], None]) -> None:
        self._receive, self._left = call.receive, left
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._begin)

    def cancel(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left()


def call_of(request: Request) -> Call:
    call: Call = request.scope["baton.call"]
    return call


async def require_tenant(request: Request) -> None:
    """Raises: Unauthorized."""
    call_of(request).authenticate()
