"""The client for asyncio: batch calls and steps over HTTP, retried where that is safe, and the way to streams.

It knows the API's paths and httpx. Invariant: an answer is the service's own or an exception; nothing is made up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
import numpy.typing as npt

from service.client.errors import ProtocolError, Unreachable, read_refusal
from service.client.journal import Journal
from service.client.results import (
    NEW,
    Batch,
    ForecastResult,
    Inputs,
    New,
    SentimentResult,
    StepItem,
    StepResult,
    read_forecast,
    read_sentiment,
    read_step,
    series_item,
    state_member,
)
from service.client.retries import CONNECT_S, Limits, retrying
from service.client.streaming import AsyncStream

T = TypeVar("T")
Returns = Literal["last", "all"]


class AsyncClient:
    """A client of one service, at one URL or at those of its replicas.

    It stays with a URL, and goes to the next when a call fails there in a way that may pass: no connection, silence,
    429, 502, 503, 504. It tries again no earlier than Retry-After says, with jitter, until `timeout` would be exceeded.
    All of this is safe: answers depend on requests alone. Keyword arguments beyond those named are members of the
    request as docs/api.md lists them. Units: timeout in seconds, for a whole call, and for a stream's time without
    progress.

    Raises, in all calls: ApiError when the service refuses, Unreachable when it does not answer.
    """

    def __init__(self, urls: str | Sequence[str], *, api_key: str | None = None, timeout: float = 60.0) -> None:
        self._urls = [url.rstrip("/") for url in ([urls] if isinstance(urls, str) else urls)]
        if not self._urls or not all(url.startswith(("http://", "https://")) for url in self._urls):
            raise ValueError(f"{urls!r}: give one URL or several that begin with http:// or https://")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._limits = Limits(timeout, timeout / (len(self._urls) + 1))
        http_timeout = httpx.Timeout(self._limits.silence_s, connect=CONNECT_S, pool=None)
        self._http = httpx.AsyncClient(headers=self._headers, timeout=http_timeout)
        self._at = self._streams = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Streams are closed on their own."""
        await self._http.aclose()

    async def sentiment(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[SentimentResult]:
        """Label texts, given as such or as {"id", "text"}."""
        return await self._batch("/v1/sentiment", {"inputs": list(texts), **options}, read_sentiment)

    async def forecast(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], horizon: int, **options: Any
    ) -> Batch[ForecastResult]:
        """Forecast the next `horizon` values of series, given as values or as {"values", "id", "start", "freq"}; the
        values are numbers, or rows for a model of several channels.

        NaN is a missing value; say with `missing=` what to do with it.
        """
        body = {"series": [series_item(one) for one in series], "horizon": horizon, **options}
        return await self._batch("/v1/forecast", body, read_forecast)

    async def step(
        self, model: str, inputs: Inputs, *, state: str | New = NEW, returns: Returns = "last", **options: Any
    ) -> StepResult:
        """Take the next steps of one session: from a token, or as a new one. Raises: the item's ApiError as well.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text.
        """
        return (await self.step_many(model, [StepItem(inputs, state)], returns=returns, **options))[0]

    async def step_many(
        self, model: str, items: Iterable[StepItem], *, returns: Returns = "last", **options: Any
    ) -> Batch[StepResult]:
        """Take the next steps of many sessions in one request."""
        body = {"model": model, "items": [item.body() for item in items], "return": returns, **options}
        return await self._batch("/v1/step", body, read_step)

    def stream(
        self,
        model: str,
        *,
        state: str | New = NEW,
        checkpoint_every: int = 100,
        returns: Returns = "last",
        binary: bool = False,
        **options: Any,
    ) -> AsyncStream:
        """Return a stream of one session, to be entered with `async with`.

        `binary` sends raw numbers, for models that take and give floats alone; it is the fast way. Units:
        checkpoint_every in steps; it bounds what is kept and sent again when a replica is lost.
        """
        opening = {"model": model, **state_member(state), "return": returns, "checkpoint_every": checkpoint_every}
        first = self._streams % len(self._urls)
        self._streams += 1
        urls = cycle(self._urls[first:] + self._urls[:first])
        return AsyncStream(urls, self._headers, self._limits, Journal(opening | options, binary=binary))

    async def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        answer: list[dict[str, Any]] = (await self._call("GET", "/v1/models"))["models"]
        return answer

    async def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        return await self._call("GET", "/v1/info")

    async def _batch(self, path: str, body: dict[str, Any], read: Callable[[Mapping[str, Any]], T]) -> Batch[T]:
        return Batch(await self._call("POST", path, json.dumps(body).encode()), read)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._limits.call_s):
                async for attempt in retrying(self._limits.call_s):
                    with attempt:
                        return await self._attempt(method, path, body)
        except TimeoutError:
            raise Unreachable(f"{self._urls[self._at]}{path}: no answer in {self._limits.call_s:g} s") from None
        raise AssertionError("an attempt returns or raises")

    async def _attempt(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        used = self._at
        url = self._urls[used] + path
        try:
            answer = await self._http.request(method, url, content=body, headers={"content-type": "application/json"})
        except httpx.TransportError as failure:
            self._leave(used)
            raise Unreachable(f"{url}: {failure or type(failure).__name__}") from failure
        refusal = read_refusal(answer.status_code, answer.headers, answer.content) if answer.is_error else None
        if refusal is not None and refusal.transient:
            self._leave(used)
            raise refusal
        try:
            content = answer.json()
        except ValueError as failure:
            raise refusal or ProtocolError(f"{url}: not JSON: {answer.text[:200]!r}") from failure
        if refusal is not None and "results" not in content:  # where every item failed, they are shown one by one
            raise refusal
        return dict(content)

    def _leave(self, used: int) -> None:
        """Go on to the next URL, unless another call has."""
        if self._at == used:
            self._at = (used + 1) % len(self._urls)
