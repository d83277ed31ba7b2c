"""HTTP connections as uvicorn has them, with an end to request heads that have none, and refusals without a task.

It knows uvicorn's protocol, not requests: `service.web.door` says what is refused, and how long a body may take is
theirs to say, until it has its answer.
Invariants: a head ends in time and within its size, or the connection does; so does what is left of a body after the
answer, and a connection that waits; an answer under way is not cut short; nothing behind the head of a handshake is
lost.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.web.context import PEER, Peer
from service.web.door import DOOR, Door

log = logging.getLogger("baton.http")

MAX_HEAD_BYTES = 65_536
READ_S = 0.01  # for a loop that was held up to read what has come meanwhile


class HttpProtocol(HttpToolsProtocol):
    """One connection of uvicorn's server; a head takes `head_ms` at most from its first byte, as does a body's rest."""

    def __init__(self, *arguments: Any, head_ms: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_ms, self._head_bytes = head_ms, 0
        self._in_head = self._in_body = self._upgraded = False
        self._timer: asyncio.TimerHandle | None = None
        self._came = b""
        self._at_start = False  # of what came, with the request that is being read
        self._keep_alive = True  # behind an answer without a cycle
        self._peer = Peer()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait()

    def shutdown(self) -> None:
        self._peer.ending = True
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._peer.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._came, self._at_start = data, not (self._in_head or self._in_body)
        super().data_received(data)
        self._came = b""
        if self._upgraded or self.transport.is_closing():
            return
        if self._in_head or (self._in_body and self._answered):
            self._head_bytes += len(data) if self._in_head else 0
            if self._head_bytes > MAX_HEAD_BYTES:
                message = f"a request's head is larger than {MAX_HEAD_BYTES} bytes"
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
            elif self._timer is None:
                self._timer = self.loop.call_later(self._head_ms / 1000, self._look)
        elif self._answered:
            self._wait()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()
        cast(dict[str, Any], self.scope)[PEER] = self._peer

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._stop_clock()
        if not self._turn_away():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
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

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        """Close the connection should no request come, as uvicorn does after an answer and nowhere else."""
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _stop_clock(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self.loop.call_later(READ_S, self._cut)

    def _cut(self) -> None:
        if self._answered:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"a request did not arrive within {self._head_ms} ms")
        else:  # the request before it comes first
            self._timer = self.loop.call_later(self._head_ms / 1000, self._look)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Cut the connection; the client is told why where it waits for no other answer, and has had none to this."""
        if self.transport.is_closing():
            return
        log.warning("%s: cut the connection", message)
        if self._answered and not self._in_body:
            head = f"HTTP/1.1 {status} {status.phrase}\r\nconnection: close\r\ncontent-type: text/plain\r\n"
            self.transport.write(f"{head}content-length: {len(message)}\r\n\r\n{message}".encode())
        self.transport.close()
