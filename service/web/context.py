"""Whoever calls the service: who asks, under which id, and for a request, whether its client still waits.

It knows ASGI and the parts of the service, not routes, bodies or answers.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fastapi import Request
from starlette.types import Receive, Scope

from service.engine.loader import Loader
from service.engine.orders import Orders
from service.engine.registry import Registry
from service.errors import MAX_MESSAGE_CHARS
from service.metrics import Metrics
from service.settings import Settings
from service.state.sequences import Sequences
from service.state.sessions import Sessions
from service.web.auth import Authenticator
from service.web.schema import Rejected

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
NO_CHARS_OF_A_PATH = re.compile(r"[^!-~]")
PEER = "baton.peer"  # in the scope: the `Peer`, where the server tells of it


def _make_request_ids() -> Iterator[str]:
    """Yield request ids that no other process makes."""
    process = secrets.token_hex(8)
    return (f"{process}-{number}" for number in itertools.count(1))


@dataclass(frozen=True)
class Service:
    """The parts that handlers work with; `create_app` puts them together.

    `orders` are None where none are taken; `log_request` takes the line of a request, None where nobody reads those.
    """

    settings: Settings
    loader: Loader
    sessions: Sessions
    sequences: Sequences
    metrics: Metrics
    authenticator: Authenticator
    orders: Orders | None
    log_request: Callable[[str], None] | None
    request_ids: Iterator[str] = field(default_factory=_make_request_ids)

    @property
    def engines(self) -> Registry:
        return self.loader.engines


class Peer:
    """The other end of a connection; `leavers` are called when it is gone, and `left` is true from then on."""

    __slots__ = ("leavers", "left")

    def __init__(self) -> None:
        self.left = False
        self.leavers: set[Callable[[], None]] = set()

    def leave(self) -> None:
        self.left = True
        for leaver in self.leavers:
            leaver()


class Caller:
    """Whoever sent a request or opened a WebSocket, as far as the service knows.

    It stands in the ASGI scope, so that whatever handles a part of the request finds the same one. `endpoint` is the
    path as it was declared, for the metrics; `log` joins the line in the log.
    """

    def __init__(self, scope: Scope, service: Service) -> None:
        self.service, self.started = service, time.perf_counter()
        self.path: str = scope["path"]
        self.verb: str = scope.get("method", "WS")
        self.fields: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # of a field that stands twice, the first
        given = self.fields.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if REQUEST_ID.fullmatch(given) else next(service.request_ids)
        self.tenant = ""
        self.endpoint = "unmatched"
        self.log = ""
        self._raw_path: bytes = scope.get("raw_path") or self.path.encode()
        scope["baton.caller"] = self

    def field(self, name: bytes, default: str = "") -> str:
        """Return the value of a header field, given by its lower-case name."""
        value = self.fields.get(name)
        return default if value is None else value.decode("latin-1")

    @property
    def printable_path(self) -> str:
        """The path as the client wrote it, fit for a log line."""
        return NO_CHARS_OF_A_PATH.sub("?", self._raw_path.decode("latin-1"))[:MAX_MESSAGE_CHARS]

    def authenticate(self) -> None:
        """Name the caller's tenant in `tenant`, or see that it holds the admin key where that is asked for.

        Raises: Unauthorized.
        """
        authenticator, given = self.service.authenticator, self.field(b"authorization")
        if authenticator.asks_for_admin(self.path):
            authenticator.check_admin(given)
        else:
            self.tenant = authenticator.tenant(given)


class Call(Caller, Request):
    """A request that has a body, and a client that waits for the answer.

    Its reader leaves here the items that it refused, by place, and as `tail` the bytes that it did not read.
    """

    def __init__(self, scope: Scope, receive: Receive, service: Service) -> None:
        Request.__init__(self, scope, receive)
        Caller.__init__(self, scope, service)
        self.rejected: dict[int, Rejected] = {}
        self.tail = b""
        self.peer: Peer = scope.get(PEER) or Peer()


def caller_of(scope: Scope) -> Caller:
    caller: Caller = scope["baton.caller"]
    return caller


def call_of(scope: Scope) -> Call:
    call: Call = scope["baton.caller"]
    return call


def forget_caller(scope: Scope) -> None:
    """Take the caller, who holds the scope, out of it: two that hold each other wait for the garbage collector."""
    del scope["baton.caller"]
