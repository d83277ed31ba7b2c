"""The requests of a client: sent to one URL after the other, and tried again where that may help.

It knows HTTP and what fails on the way, not what is asked or answered. Invariant: an answer is a whole JSON object of
the service, or an exception says why there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from baton_client.errors import ApiError, ProtocolError, Unreachable, read_refusal, reason
from baton_client.events import Events
from baton_client.lifetime import Lifetime
from baton_client.retries import CONNECT_S, Limits, retrying
from baton_client.routes import Route, distrust

T = TypeVar("T")


class Calls:
    """Requests by `routes`, within the `lifetime` of their client."""

    def __init__(self, routes: Sequence[Route], headers: Mapping[str, str], limits: Limits, lifetime: Lifetime) -> None:
        self._routes, self._limits, self._lifetime = routes, limits, lifetime
        self._at = 0
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(limits.silence_s, connect=CONNECT_S, pool=None),
            trust_env=False,  # the routes have what the environment says
            verify=distrust(),
            mounts={route.url: route.transport() for route in routes},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Return the answer to a request."""
        return await self._patiently(path, lambda url: self._answer(method, url, body))

    async def listen(self, path: str, body: bytes) -> Events:
        """Return the answer to a request that is answered in events, of which the first has come."""
        return await self._patiently(path, lambda url: Events.open(self._http, url, body))

    async def _patiently(self, path: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask at one URL after the other, until there is an answer or what does not pass by itself."""
        try:
            async with asyncio.timeout(self._limits.call_s):
                async for attempt in retrying(self._limits.call_s):
                    with attempt:
                        return await self._attempt(path, ask)
        except TimeoutError:
            raise Unreachable(f"{self._routes[self._at].url}{path}: no answer in {self._limits.call_s:g} s") from None
        raise AssertionError("an attempt returns or raises")

    async def _attempt(self, path: str, ask: Callable[[str], Awaitable[T]]) -> T:
        self._lifetime.use()
        used = self._at
        url = self._routes[used].url + path
        try:
            return await ask(url)
        except httpx.TransportError as failure:
            self._leave(used)
            raise Unreachable(f"{url}: {reason(failure)}") from failure
        except ApiError as refusal:
            if refusal.transient:
                self._leave(used)
            raise

    async def _answer(self, method: str, url: str, body: bytes | None) -> dict[str, Any]:
        answer = await self._http.request(method, url, content=body, headers={"content-type": "application/json"})
        refusal = read_refusal(answer.status_code, answer.headers, answer.content) if answer.is_error else None
        try:
            content = answer.json()
            if not isinstance(content, dict):
                raise ValueError("no object")
        except ValueError as failure:
            raise refusal or ProtocolError(f"{url}: no JSON object: {answer.text[:200]!r}") from failure
        if refusal is not None and not _tells(content, refusal):
            raise refusal
        return content

    def _leave(self, used: int) -> None:
        """Go on to the next URL, unless another call has."""
        if self._at == used:
            self._at = (used + 1) % len(self._routes)


def _tells(content: Mapping[str, Any], refusal: ApiError) -> bool:
    """Return whether each item has its error, and to ask again is no better: what was written would be lost."""
    results = content.get("results", [])
    return any("choices" in item for item in results) if refusal.transient else bool(results)
