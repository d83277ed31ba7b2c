"""The events of an answer that comes piece by piece, as the service sends them.

It knows httpx and the form of events, not what is in them. Invariant: an answer that ends before its last event, the
one with the summary, is an error.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx

from baton_client.errors import ProtocolError, Unreachable, read_refusal, reason

KIND = "text/event-stream"
DATA = b"data:"
LAST = "summary"
Event = dict[str, Any]


class Events:
    """The events of one answer, of which the first has come; those before the last can be gone through once."""

    def __init__(self, response: httpx.Response) -> None:
        self._response, self._lines = response, _lines(response)
        self._url = response.request.url
        self._first: Event = {}

    @classmethod
    async def open(cls, http: httpx.AsyncClient, url: str, body: bytes) -> Self:
        """Send a request, and wait for the first event. Raises: ApiError, ProtocolError, httpx.TransportError."""
        headers = {"content-type": "application/json", "accept": KIND}
        response = await http.send(http.build_request("POST", url, content=body, headers=headers), stream=True)
        events = cls(response)
        try:
            if response.is_error:
                raise read_refusal(response.status_code, response.headers, await response.aread())
            if not response.headers.get("content-type", "").startswith(KIND):
                raise ProtocolError(f"{url}: no events: {(await response.aread())[:200]!r}")
            events._first = await events._next()
        except BaseException:
            await events.close()
            raise
        return events

    async def __aiter__(self) -> AsyncIterator[Event]:
        event = self._first
        while LAST not in event:
            yield event
            try:
                event = await self._next()
            except httpx.TransportError as failure:
                raise Unreachable(f"{self._url}: {reason(failure)}") from failure

    async def _next(self) -> Event:
        async for line in self._lines:
            if line.startswith(DATA):
                try:
                    event = json.loads(line.removeprefix(DATA))
                    if not isinstance(event, dict):
                        raise ValueError("no object")
                    return event
                except ValueError as failure:
                    raise ProtocolError(f"{self._url}: no event: {line[:200]!r}") from failure
        raise httpx.RemoteProtocolError("the answer ended before its last event")

    async def close(self) -> None:
        """Leave the connection, whether or not there is more to come."""
        await self._response.aclose()


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield what ends with a line feed; httpx would end lines at what a text may hold, such as U+2028, too."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
