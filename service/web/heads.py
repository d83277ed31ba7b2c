"""HTTP connections as uvicorn has them, with an end to request heads that have none, and refusals without a task.

It knows uvicorn's protocol, not requests: `service.web.framing` says which heads are none, `service.web.door` what is
refused, and how long a body may take is theirs to say, until it has its answer.
Invariants: a head ends in time and within its size, or the connection does; so does what is left of a body after the
answer, and a connection that waits; what a body has besides its bytes is bounded by these; an answer under way is not
cut short; nothing behind the head of a handshake is lost.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.settings import Settings
from service.web.clients import Clients
from service.web.context import PEER, Peer
from service.web.door import DOOR, Door
from service.web.framing import Fault, find_excess, find_fault

log = logging.getLogger("baton.http")

CHUNK_BYTES = 16  # of a chunk besides its bytes, that are let pass: as many as Go's net/http
MAX_FRAMING_BYTES = 65_536  # of a body, besides those
READ_S = 0.01  # for a loop that was held up to read what has come meanwhile


class HttpProtocol(HttpToolsProtocol):
    """One connection of uvicorn's server; a head takes `timeout_ms` at most from its first byte, as does a body's rest.

    One of an address that holds too many gets as long for its first request, which is refused.
    """

    def __init__(self, *arguments: Any, settings: Settings, clients: Clients, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._settings, self._clients, self._address, self._is_too_many = settings, clients, "", False
        self._in_head = self._in_body = self._upgraded = False
        self._whole: tuple[int, int] | None = None  # of the head, when data last came: bytes of its target, and fields
        self._pending = 0  # bytes of the head that came since, and made no more of it whole
        self._framing = 0  # bytes of the body that are none of its own, beyond what its chunks may have
        self._running: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._came = b""
        self._at_start = False  # of what came, with the request that is being read
        self._keep_alive = True  # behind an answer without a cycle
        self._peer = Peer()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._address = self.client[0] if self.client is not None else ""
        self._is_too_many = self._clients.enter(self._address)
        self._wait()
        if self._is_too_many:
            self._start_clock()

    def shutdown(self) -> None:
        self._peer.ending = True
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._clients.leave(self._address)
        self._peer.leave()
        if self._running is not None:  # uvicorn tells the last that came, behind which others may have lined up
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came, self._at_start = data, not (self._in_head or self._in_body)
        self._framing += len(data) if self._in_body else 0
        super().data_received(data)
        self._came = b""
        if self._upgraded or self.transport.is_closing():
            return
        if self._in_head:
            whole = len(self.url), len(self.headers)
            self._pending = self._pending + len(data) if whole == self._whole else 0
            self._whole = whole
            self._refuse(find_excess(self.url, self.headers, self._settings, begun=self._pending))
            self._start_clock()
        elif not self._answered:
            self._refuse(self._find_filler())
        elif self._in_body:
            self._start_clock()
        else:
            self._wait()

    def on_message_begin(self) -> None:
        self._in_head, self._whole, self._pending = True, None, 0
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[PEER] = self._peer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes behind a body says nothing here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._refuse(self._find_fault())
        self._in_head, self._framing = False, 0
        self._stop_clock()
        if self.transport.is_closing():
            self.cycle = None  # type: ignore[assignment]  # as at first
        elif not self._turn_away():
            super().on_headers_complete()
        self._in_body = True

    def on_chunk_header(self) -> None:
        self._framing -= CHUNK_BYTES

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = self._at_start = False
        self._stop_clock()
        if self.cycle is not None:
            super().on_message_complete()
        elif not self._keep_alive:
            self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        if self.transport.is_closing():
            return
        upgrade = sys.exc_info()[1]  # uvicorn calls this where it catches it, and forgets the rest of the data
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        rest = self._came[upgrade.args[0] :]
        self._upgraded = True
        super().handle_websocket_upgrade()
        if rest and not self.transport.is_closing():
            self.transport.get_protocol().data_received(rest)  # type: ignore[attr-defined]

    def _turn_away(self) -> bool:
        """Answer at once what the door refuses, without a cycle; what comes of its body is swallowed.

        A connection that is not to be kept closes behind the body: closed before, it would be reset, and the client
        might never see the answer.
        """
        door: Door | None = self.app_state.get(DOOR)
        plain = self._answered and not (self.expect_100_continue or self.parser.should_upgrade())
        writable = not (self.flow.write_paused or self.transport.is_closing())
        if door is None or not plain or not writable or self.parser.get_method() != b"POST":
            return False
        answer = door.refuse(self.url, cast(Scope, self.scope), self._whole_body())
        if answer is None:
            return False
        self.cycle = None  # type: ignore[assignment]  # as at first
        self._keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.server_state.total_requests += 1
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *answer.raw_headers)]
        close = b"" if self._keep_alive else b"connection: close\r\n"
        self.transport.write(b"".join((STATUS_LINE[answer.status_code], *lines, close, b"\r\n", answer.body)))
        return True

    def _whole_body(self) -> bytes | None:
        """Return the body of the request whose head has ended, where both came at once and nothing else did."""
        if not (self._at_start and self._came.startswith(b"POST ")):  # an empty line may come before
            return None
        _, _, body = self._came.partition(b"\r\n\r\n")
        return body if (b"content-length", b"%d" % len(body)) in self.scope["headers"] else None

    def send_400_response(self, msg: str) -> None:
        self._end(Fault(HTTPStatus.BAD_REQUEST, msg))  # which uvicorn has logged

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _find_fault(self) -> Fault | None:
        """Return why the request whose head has ended is refused unheard."""
        if self._is_too_many:
            message = f"more than {self._clients.most} connections from this address (max_connections)"
            return Fault(HTTPStatus.TOO_MANY_REQUESTS, message)
        excess = find_excess(self.url, self.headers, self._settings)
        return excess or find_fault(self.parser.get_http_version(), self.headers)

    def _find_filler(self) -> Fault | None:
        if not self._in_body or self._framing <= MAX_FRAMING_BYTES:
            return None
        message = (
            f"a body has {MAX_FRAMING_BYTES} bytes more than its chunks need, of extensions or of fields behind it"
        )
        return Fault(HTTPStatus.BAD_REQUEST, message)

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_awaited(self) -> bool:
        """Whether the client waits for an answer to what it sends now, and for none before it."""
        if not self._in_body:
            return self._answered
        return self.cycle is not None and not (self.pipeline or self.cycle.response_started)

    def _wait(self) -> None:
        """Close the connection should no request come, as uvicorn does after an answer and nowhere else."""
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start_clock(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._settings.timeout_ms / 1000, self._look)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self.loop.call_later(READ_S, self._cut)

    def _cut(self) -> None:
        if self._answered:
            message = f"a request did not arrive within {self._settings.timeout_ms} ms (timeout_ms)"
            self._refuse(Fault(HTTPStatus.REQUEST_TIMEOUT, message))
        else:  # the request before it comes first
            self._timer = self.loop.call_later(self._settings.timeout_ms / 1000, self._look)

    def _refuse(self, fault: Fault | None) -> None:
        if fault is not None and not self.transport.is_closing():
            log.warning("%s: cut the connection", fault.message)
            self._end(fault)

    def _end(self, fault: Fault) -> None:
        """Cut the connection; the client is told why where it waits for no other answer, and has had none to this."""
        if self._is_awaited:
            fields = [*self.server_state.default_headers, (b"connection", b"close"), (b"content-type", b"text/plain")]
            if fault.status is HTTPStatus.TOO_MANY_REQUESTS:
                fields.append((b"retry-after", b"1"))
            fields.append((b"content-length", b"%d" % len(fault.message)))
            lines = [b"%b: %b\r\n" % field for field in fields]
            self.transport.write(b"".join((STATUS_LINE[fault.status], *lines, b"\r\n", fault.message.encode())))
        self.transport.close()
