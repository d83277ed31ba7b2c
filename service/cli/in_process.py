"""Calls of an ASGI application in this process, whose answers come piece by piece, as over a socket.

It knows ASGI and httpx, not the application. (httpx's own transport gives an answer only when it is whole.) Invariant:
an application whose answer is left is told that its client has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
START, BODY = "http.response.start", "http.response.body"


class InProcess(httpx.AsyncBaseTransport):
    """The way to `app`, in the event loop of the caller."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(self._app, _scope(request), await request.aread())
        try:
            start = await exchange.next()
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(start["status"], headers=start.get("headers", []), stream=exchange)


def _scope(request: httpx.Request) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 0),
        "server": (request.url.host, request.url.port),
        "root_path": "",
    }


class _Exchange(httpx.AsyncByteStream):
    """One request and what is answered, message by message."""

    def __init__(self, app: Application, scope: Message, body: bytes) -> None:
        self._body: bytes | None = body
        self._sent: asyncio.Queue[Message] = asyncio.Queue(1)  # the application waits for the reader
        self._left = asyncio.Event()
        self._task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is None:
            await self._left.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if not self._left.is_set():
            await self._sent.put(message)

    async def next(self) -> Message:
        """Return the next message. Raises: what the application raised, or RuntimeError where it ended before."""
        getting = asyncio.create_task(self._sent.get())
        try:
            await asyncio.wait({getting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
        self._task.result()
        raise RuntimeError("the application ended before its answer did")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def aclose(self) -> None:
        self._left.set()
        while not self._sent.empty():
            self._sent.get_nowait()
        await asyncio.wait({self._task})
