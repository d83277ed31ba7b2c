"""Closed-loop load: so many connections, each of which sends its next request when it has the whole answer.

It knows HTTP/1.1, which httptools reads, and not what bodies mean. The bytes are its own, so that one core sends
thousands of requests a second. Invariant: no request is sent twice; a connection that fails under it is an error.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
from pydantic_core import to_json

from service.cli.tally import Answer, Tally
from service.cli.typical_calls import Body, Call

ANSWER_LIMIT_S = 60.0  # the service answers or refuses before
PAUSE_MS = 100.0  # after a connection that failed


class _Connection(asyncio.Protocol):
    """One kept connection; it carries one request at a time."""

    def __init__(self) -> None:
        self.alive = False
        self._parser, self._content = httptools.HttpResponseParser(self), bytearray()
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.alive = cast(asyncio.Transport, transport), True

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the content of the whole answer. Raises: OSError, TimeoutError among them."""
        self._parser, self._content = httptools.HttpResponseParser(self), bytearray()
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await self._answered
        except TimeoutError:
            self.close()
            raise TimeoutError(f"no whole answer within {ANSWER_LIMIT_S:g} s") from None
        return self._parser.get_status_code(), bytes(self._content)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as failure:
            self._fail(f"what came is no answer in HTTP: {failure}")

    def on_body(self, content: bytes) -> None:
        self._content += content

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("the connection was closed before the answer was complete")

    def _fail(self, reason: str) -> None:
        self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError(reason))

    def close(self) -> None:
        self.alive = False
        self.transport.close()


class ClosedLoop:
    """A load of `connections` on the service at `url`, all of which send `call`."""

    def __init__(self, url: str, call: Call, connections: int, api_key: str | None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._call, self._connections = call, connections
        key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._head = (
            f"POST {parts.path.rstrip('/')}{call.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\n{key}Content-Length: "
        ).encode()
        self.tally = Tally()

    async def run(self, seconds: float) -> float:
        """Send for so long, wait for what is under way, and return the seconds that it took in all."""
        started = time.perf_counter()
        callers = (self._send_until(started + seconds) for _ in range(self._connections))
        await asyncio.gather(*callers)
        return time.perf_counter() - started

    async def _send_until(self, end: float) -> None:
        connection, bodies = _Connection(), self._call.bodies()
        body = next(bodies)
        try:
            while time.perf_counter() < end:
                try:
                    if not connection.alive:
                        connection = await self._connect()
                    answer, pause_ms = await self._ask(connection, body)
                except OSError as failure:  # TimeoutError and ConnectionError among them
                    answer, pause_ms = None, PAUSE_MS
                    self.tally.errors[f"connection: {failure}"] += 1
                if pause_ms:
                    await asyncio.sleep(max(0.0, min(pause_ms / 1000, end - time.perf_counter())))
                body = bodies.send(answer)
        finally:
            if connection.alive:
                connection.close()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return connection

    async def _ask(self, connection: _Connection, body: Body) -> tuple[Answer | None, float]:
        content = to_json(body)
        request = b"%b%d\r\n\r\n%b" % (self._head, len(content), content)
        sent = time.perf_counter()
        status, answer = await connection.ask(request)
        return self.tally.count(self._call.count(body), status, answer, 1e3 * (time.perf_counter() - sent))
