"""Answers that are server-sent events, each a JSON object, written as they come to be.

It knows ASGI and bytes, not what events tell. Invariants: the next event is not asked for before the last is written,
so a client that does not read holds up nobody but itself, and is given up in the end; what goes wrong once the answer
has begun is an event, too.

Source: server-sent events, WHATWG HTML Standard, section 9.2.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Response
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.errors import InternalError, RequestError
from service.web.context import Call

log = logging.getLogger("baton.http")

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # of proxies that would collect events
]


# What many clients end a line at, though an event's lines end at line feeds alone.
ESCAPES = {character.encode(): f"\\u{ord(character):04x}".encode() for character in "\x85\u2028\u2029"}


def event(content: dict[str, Any]) -> bytes:
    """Return an event as it is written, in a line that every client takes for one."""
    written = to_json(content, bytes_mode="base64")
    for character, escape in ESCAPES.items():
        written = written.replace(character, escape)
    return b"data: " + written + b"\n\n"


class EventStream(Response):
    """An answer of the events that `events` yields, perhaps several at once; `show` says how an error is shown."""

    def __init__(
        self, call: Call, events: AsyncGenerator[bytes], show: Callable[[RequestError], dict[str, Any]]
    ) -> None:
        self._call, self._events, self._show = call, events, show
        self.status_code, self.background = 200, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: ClientDisconnect when the client left, or reads no more."""
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS]})
        first = True
        try:
            async with aclosing(self._events):
                async for written in self._events:
                    if written:
                        await self._write(send, written)
                    if written and first:
                        self._note_first()
                        first = False
        except ClientDisconnect:
            raise
        except Exception as failure:  # the last place that can still tell the client
            error = (
                failure
                if isinstance(failure, RequestError)
                else InternalError("the service failed; the log has the cause")
            )
            if error is not failure:
                log.exception("request %s failed", self._call.request_id)
            self._call.fail(error)
            await self._write(send, event(self._show(error)))
        await send({"type": "http.response.body", "body": b""})

    async def _write(self, send: Send, written: bytes) -> None:
        try:
            async with asyncio.timeout(self._call.service.settings.stream_idle_s):
                await send({"type": "http.response.body", "body": written, "more_body": True})
        except TimeoutError:
            raise ClientDisconnect from None

    def _note_first(self) -> None:
        call = self._call
        call.service.metrics.first_event_s.labels(call.endpoint).observe(time.monotonic() - call.started)
