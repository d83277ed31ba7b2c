"""The client for asyncio: batch calls and steps over HTTP, tried again when they fail, and the way to streams.

It knows the API's paths and httpx. Invariant: an answer is the service's own or an exception; nothing is made up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import cycle
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
import numpy.typing as npt

from baton_client.async_stream import AsyncStream
from baton_client.errors import ProtocolError, Unreachable, read_refusal
from baton_client.inputs import NEW, Inputs, New, StepItem, encoded, listed, series_item, state_member, step_item
from baton_client.journal import Journal
from baton_client.lifetime import Lifetime
from baton_client.results import (
    Batch,
    ForecastResult,
    SentimentResult,
    StepResult,
    read_forecast,
    read_sentiment,
    read_step,
)
from baton_client.retries import CONNECT_S, Limits, retrying
from baton_client.routes import distrust, find_routes

T = TypeVar("T")
Answer = Coroutine[Any, Any, T]  # the call itself reads its arguments, in the caller's thread
Returns = Literal["last", "all"]


class AsyncClient:
    """A client of one service, at one URL or at those of its replicas.

    It stays with a URL, and goes to the next when a call fails there in a way that may pass: no connection, silence,
    429, 502, 503, 504. It tries again no earlier than Retry-After says, with jitter, until `timeout` would be exceeded.
    All of this is safe: answers depend on requests alone. Other keyword arguments are members of the request, as
    docs/api.md lists them. Units: timeout in seconds, for a whole call, and for a stream's time without progress.

    Raises, in all calls: ApiError when the service refuses, Unreachable when it does not answer; ValueError before
    anything is sent, for what has no form in a request; RuntimeError once it is closed, and in another event loop than
    that of its first use.
    """

    def __init__(self, urls: str | Iterable[str], *, api_key: str | None = None, timeout: float = 60.0) -> None:
        self._routes = find_routes(urls)
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._limits = Limits(timeout, timeout / (len(self._routes) + 1))
        self._http = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(self._limits.silence_s, connect=CONNECT_S, pool=None),
            trust_env=False,  # the routes have what the environment says
            verify=distrust(),
            mounts={route.url: route.transport() for route in self._routes},
        )
        self._lifetime = Lifetime("client", "make a new one")
        self._at = self._streams = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Streams are closed on their own."""
        if self._lifetime.end():
            await self._http.aclose()

    def sentiment(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Answer[Batch[SentimentResult]]:
        """Label texts. Each is a text or a mapping {"text", "id"}."""
        inputs = list(listed(texts, "texts", "texts"))
        return self._batch("/v1/sentiment", encoded({"inputs": inputs, **options}), read_sentiment)

    def forecast(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], horizon: int, **options: Any
    ) -> Answer[Batch[ForecastResult]]:
        """Forecast the next `horizon` values of series. Each is values or a mapping {"values", "id", "start", "freq"}.

        Shapes: values are numbers, or rows for a model of several channels. NaN is a missing value; `missing=` says
        what to do with it.
        """
        given = enumerate(listed(series, "series", "series"))
        items = [series_item(item, f"series[{index}]") for index, item in given]
        body = encoded({"series": items, "horizon": horizon, **options})
        return self._batch("/v1/forecast", body, read_forecast)

    def step(
        self, model: str, inputs: Inputs, *, state: str | New = NEW, returns: Returns = "last", **options: Any
    ) -> Answer[StepResult]:
        """Take the next steps of one session, from a token or from its beginning. Raises: the item's ApiError as well.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text.
        """
        return self._single("/v1/step", _steps(model, [StepItem(inputs, state)], returns, options), read_step)

    def step_many(
        self, model: str, items: Iterable[StepItem], *, returns: Returns = "last", **options: Any
    ) -> Answer[Batch[StepResult]]:
        """Take the next steps of many sessions in one request."""
        return self._batch("/v1/step", _steps(model, items, returns, options), read_step)

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
        self._lifetime.check()
        opening = {"model": model, **state_member(state), "return": returns, "checkpoint_every": checkpoint_every}
        journal = Journal(json.loads(encoded(opening | options)), binary=binary)
        first = self._streams % len(self._routes)
        self._streams += 1
        return AsyncStream(cycle(self._routes[first:] + self._routes[:first]), self._headers, self._limits, journal)

    async def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        answer: list[dict[str, Any]] = (await self._call("GET", "/v1/models"))["models"]
        return answer

    async def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        return await self._call("GET", "/v1/info")

    async def _batch(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], T]) -> Batch[T]:
        return Batch(await self._call("POST", path, body), read)

    async def _single(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], T]) -> T:
        return (await self._batch(path, body, read))[0]

    async def _call(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._limits.call_s):
                async for attempt in retrying(self._limits.call_s):
                    with attempt:
                        return await self._attempt(method, path, body)
        except TimeoutError:
            raise Unreachable(f"{self._routes[self._at].url}{path}: no answer in {self._limits.call_s:g} s") from None
        raise AssertionError("an attempt returns or raises")

    async def _attempt(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        self._lifetime.use()
        used = self._at
        url = self._routes[used].url + path
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
        if refusal is not None and "results" not in content:  # where every item failed, each has its error
            raise refusal
        return dict(content)

    def _leave(self, used: int) -> None:
        """Go on to the next URL, unless another call has."""
        if self._at == used:
            self._at = (used + 1) % len(self._routes)


def _steps(model: str, items: Iterable[StepItem], returns: Returns, options: Mapping[str, Any]) -> bytes:
    given = enumerate(listed(items, "items", "StepItem"))
    members = [step_item(item, f"items[{index}]") for index, item in given]
    return encoded({"model": model, "items": members, "return": returns, **options})
