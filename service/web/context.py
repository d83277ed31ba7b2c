"""Whoever calls the service: who asks, under which id, and for a request, whether its client still waits.

It knows ASGI and the parts of the service, not routes, bodies or answers.
"""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.types import Receive, Scope

from service.batching.submission import Timing
from service.engine.engine import Engine
from service.engine.loader import Loader
from service.engine.orders import Orders
from service.engine.registry import Registry
from service.errors import MAX_MESSAGE_CHARS, RequestError, Unauthorized
from service.metrics import Metrics
from service.settings import Settings
from service.state.sequences import Sequences
from service.state.sessions import Carried, Hold, Point, Precision, Sessions
from service.web.api_keys import ApiKey
from service.web.auth import Authenticator, asks_for_admin, bearer, key_among, tenant_of
from service.web.schema import Rejected

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
T = TypeVar("T")
UNMATCHED = "unmatched"  # the endpoint of what stands nowhere
NO_CHARS_OF_A_PATH = re.compile(r"[^!-~]")
PEER = "baton.peer"  # in the scope: the `Peer`, where the server tells of it


def _make_request_ids() -> Iterator[str]:
    """Yield request ids that no other process makes."""
    process = secrets.token_hex(8)
    return (f"{process}-{number}" for number in itertools.count(1))


class Rates(Protocol):
    """What counts the calls of tenants, and says RateLimited of those that are too many."""

    async def take(self, tenant: str) -> None: ...
    async def wait(self, tenant: str, *, timeout_s: float) -> None: ...


class Tracer(Protocol):
    """What keeps the traces of callers, told once their work is done."""

    def end_request(self, caller: Caller, status: int) -> None: ...
    def end_frame(self, caller: Caller, name: str, error: RequestError | None) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Service:
    """The parts that handlers work with; `create_app` puts them together.

    `orders` are None where none are taken; `log_request` takes the line of a request, None where nobody reads those;
    `tracer` is None where nothing is traced, `rates` where a tenant may call as often as it likes.
    """

    settings: Settings
    loader: Loader
    sessions: Sessions
    sequences: Sequences
    metrics: Metrics
    authenticator: Authenticator
    orders: Orders | None
    log_request: Callable[[str], None] | None
    tracer: Tracer | None
    rates: Rates | None
    request_ids: Iterator[str] = field(default_factory=_make_request_ids)

    @property
    def engines(self) -> Registry:
        return self.loader.engines


class Peer:
    """The other end of a connection; `leavers` are called when it is gone, and `left` is true from then on.

    `ending` says that the server shuts down, and what takes long had better come to its end.
    """

    __slots__ = ("ending", "leavers", "left")

    def __init__(self) -> None:
        self.ending = self.left = False
        self.leavers: set[Callable[[], None]] = set()

    def leave(self) -> None:
        self.left = True
        for leaver in self.leavers:
            leaver()


@dataclass(slots=True)
class Part:
    """A part of some work, `name`d open or seal: so many tokens, from `began` to `ended`."""

    name: str
    began: float
    ended: float
    tokens: int


@dataclass(slots=True)
class Work:
    """What is done for a request, or for one frame of a stream, since it `began`; `parts` where it is traced."""

    began: float
    runs: list[tuple[Engine, Timing]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


class Caller:
    """Whoever sent a request or opened a WebSocket, as far as the service knows.

    It stands in the ASGI scope, so that whatever handles a part of the request finds the same one. `endpoint` is the
    path as it was declared, for the metrics; `facts` join the line in the log. `failure` is the error that ended an
    answer, or a stream, that had begun. `trace_id` is the trace's, where there is one, and `span` the tracer's own.

    Units: `started` is of `time.monotonic`, the batchers' clock.
    """

    def __init__(self, scope: Scope, service: Service) -> None:
        self.service, self.started = service, time.monotonic()
        self.path: str = scope["path"]
        self.verb: str = scope.get("method", "WS")
        self.heads: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self.fields: dict[bytes, bytes] = dict(reversed(self.heads))  # of a field that stands twice, the first
        given = self.fields.get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if REQUEST_ID.fullmatch(given) else next(service.request_ids)
        self.key: ApiKey | None = None
        self.endpoint = UNMATCHED
        self.facts: dict[str, Any] = {}
        self.failure: RequestError | None = None
        self.work = Work(self.started)
        self.trace_id = ""
        self.span: Any = None
        self.scheme: str = scope.get("scheme", "http")
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

    @property
    def tenant(self) -> str:
        return tenant_of(self.key)

    @property
    def protocols(self) -> list[str]:
        """The subprotocols that a WebSocket offers."""
        return [protocol.strip() for protocol in self.field(b"sec-websocket-protocol").split(",")]

    @property
    def is_known(self) -> bool:
        """Whether the caller has shown a key, or needs none."""
        return self.key is not None or not self.service.authenticator.asks

    async def authenticate(self) -> None:
        """Know the caller by the key in its head, and count the call; the first frame of a WebSocket may hold it yet.

        Raises: Unauthorized; RateLimited.
        """
        authenticator, given = self.service.authenticator, bearer(self.field(b"authorization"))
        if asks_for_admin(self.path):
            self.key = authenticator.admin_key(given)
            return
        if self.verb == "WS":
            given = given or key_among(self.protocols)
        if given or self.verb != "WS" or not authenticator.asks:
            await self.show(given)

    async def show(self, key: str) -> None:
        """Know the caller by a key, and count its call. Raises: Unauthorized; RateLimited."""
        self.key = self.service.authenticator.tenant_key(key)
        if self.service.rates is not None:
            await self.service.rates.take(self.tenant)

    async def call_again(self, *, timeout_s: float) -> None:
        """See that the caller's key still opens, and count a further call on the connection, once that may be.

        Raises: Unauthorized; RateLimited when it may not be within `timeout_s`.
        """
        if self.key is not None:
            self.service.authenticator.check(self.key)
        elif not self.is_known:
            raise Unauthorized("this service asks for API keys by now, and the connection has shown none")
        if self.service.rates is not None:
            await self.service.rates.wait(self.tenant, timeout_s=timeout_s)

    def fail(self, error: RequestError) -> None:
        """Note that `error` ended an answer, or a stream, that had begun."""
        self.failure = error
        self.facts |= {"code": error.log_code, "message": str(error)}

    def resume(self, tokens: Sequence[bytes], *, model: str) -> Awaitable[list[Point | RequestError]]:
        """Return what `Sessions.resume` gives for the caller's tokens."""
        points = self.service.sessions.resume(tokens, model=model, tenant=self.tenant)
        return points if self.service.tracer is None else self._timed("open", points, len(tokens))

    def hand_out(
        self, points: Sequence[Point], *, hold: Hold | None = None, precision: Precision = "float32"
    ) -> Awaitable[list[Carried | RequestError]]:
        """Return what `Sessions.hand_out` gives the caller for these points."""
        carried = self.service.sessions.hand_out(points, tenant=self.tenant, hold=hold, precision=precision)
        return carried if self.service.tracer is None else self._timed("seal", carried, len(points))

    async def _timed(self, name: str, part: Awaitable[T], tokens: int) -> T:
        """Note how long a part of the work takes, if it has to do with any tokens."""
        began = time.monotonic()
        done = await part
        if tokens:
            self.work.parts.append(Part(name, began, time.monotonic(), tokens))
        return done


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
