"""The client for asyncio: batch calls and steps over HTTP, tried again when they fail, and the way to streams.

It knows the API's paths, not how requests travel. Invariant: an answer is the service's own or an exception; nothing
is made up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from itertools import cycle
from operator import itemgetter
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import numpy.typing as npt

from baton_client.async_stream import AsyncStream
from baton_client.calls import Calls
from baton_client.errors import ProtocolError, Unreachable
from baton_client.inputs import (
    NEW,
    Condition,
    Inputs,
    New,
    StepItem,
    classify_item,
    encoded,
    listed,
    prompt_item,
    series_item,
    state_member,
    step_item,
    transform_item,
)
from baton_client.journal import Journal
from baton_client.lifetime import Lifetime
from baton_client.results import (
    Batch,
    ClassifyResult,
    ForecastResult,
    GenerateEvent,
    GenerateResult,
    SentimentResult,
    StepResult,
    TagResult,
    TransformResult,
    read_class,
    read_event,
    read_forecast,
    read_generated,
    read_sentiment,
    read_step,
    read_tags,
    read_transform,
)
from baton_client.retries import Limits
from baton_client.routes import find_routes
from baton_client.translations import TranslateResult, read_translation

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
        self._lifetime = Lifetime("client", "make a new one")
        self._calls = Calls(self._routes, self._headers, self._limits, self._lifetime)
        self._streams = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. Streams are closed on their own."""
        if self._lifetime.end():
            await self._calls.close()

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

    def tag(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Answer[Batch[TagResult]]:
        """Label the words of texts. Each is a text, or a mapping {"text", "id"} or {"tokens", "id"}: words."""
        inputs = list(listed(texts, "texts", "texts"))
        return self._batch("/v1/tag", encoded({"inputs": inputs, **options}), read_tags)

    def translate(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Answer[Batch[TranslateResult]]:
        """Translate texts. Each is a text or a mapping {"text", "id"}."""
        inputs = list(listed(texts, "texts", "texts"))
        return self._batch("/v1/translate", encoded({"inputs": inputs, **options}), read_translation)

    def transform(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], **options: Any
    ) -> Answer[Batch[TransformResult]]:
        """Make of series others of as many values. Each is values, or a mapping {"values", "id"} or {"inputs", "id"}.

        Shapes: a series is numbers, those of a signal its samples, or rows of features.
        """
        given = enumerate(listed(series, "series", "series"))
        items = [transform_item(item, f"series[{index}]") for index, item in given]
        return self._batch("/v1/transform", encoded({"items": items, **options}), read_transform)

    def classify(
        self, items: Iterable[Mapping[str, Any] | Inputs | bytes], **options: Any
    ) -> Answer[Batch[ClassifyResult]]:
        """Label sequences. Each is a text, numbers, rows, the bytes of a WAV file, or a mapping of that and "id".

        The members of a mapping are "text", "values", "inputs" or "audio".
        """
        given = enumerate(listed(items, "items", "texts, series or bytes"))
        members = [classify_item(item, f"items[{index}]") for index, item in given]
        return self._batch("/v1/classify", encoded({"items": members, **options}), read_class)

    def generate(
        self,
        prompt: Inputs | None = None,
        *,
        state: str | New = NEW,
        condition: Condition | None = None,
        **options: Any,
    ) -> Answer[GenerateResult]:
        """Generate what comes after a prompt, a state, a condition, or nothing. Raises: the item's ApiError as well.

        What was cut short is not asked for again: the error's `choices` have what was written, to go on from. Shapes:
        a prompt is a text; for a model without a tokenizer k ids, or k rows of a point.
        """
        item = StepItem(prompt, state, condition=condition)
        return self._single("/v1/generate", _prompts([item], options), read_generated)

    def generate_many(self, items: Iterable[StepItem], **options: Any) -> Answer[Batch[GenerateResult]]:
        """Generate what comes after several prompts, in one request."""
        return self._batch("/v1/generate", _prompts(items, options), read_generated)

    def generate_stream(
        self,
        prompt: Inputs | None = None,
        *,
        state: str | New = NEW,
        condition: Condition | None = None,
        **options: Any,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Generate, and yield what comes as it comes; the last event of each choice has the state.

        To close the iterator leaves the connection, and the service stops. It is tried again until the first event has
        come, and never after that. Units: the client's timeout is for the first event.

        Raises: the item's ApiError as well, and Unreachable where the events end too early.
        """
        item = StepItem(prompt, state, condition=condition)
        return self._listen("/v1/generate", _prompts([item], options, stream=True))

    def step(
        self,
        model: str,
        inputs: Inputs | None = None,
        *,
        state: str | New = NEW,
        begin: Condition | None = None,
        returns: Returns = "last",
        **options: Any,
    ) -> Answer[StepResult]:
        """Take the next steps of one session, from a token or from its beginning. Raises: the item's ApiError as well.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text. Where a session begins from
        a condition they may be left out.
        """
        item = StepItem(inputs, state, condition=begin)
        return self._single("/v1/step", _steps(model, [item], returns, options), read_step)

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
        models: list[dict[str, Any]] = _understood(await self._calls.ask("GET", "/v1/models"), itemgetter("models"))
        return models

    async def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        return await self._calls.ask("GET", "/v1/info")

    async def _batch(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], T]) -> Batch[T]:
        return _understood(await self._calls.ask("POST", path, body), lambda answer: Batch(answer, read))

    async def _single(self, path: str, body: bytes, read: Callable[[Mapping[str, Any]], T]) -> T:
        return (await self._batch(path, body, read))[0]

    async def _listen(self, path: str, body: bytes) -> AsyncGenerator[GenerateEvent, None]:
        events = await self._calls.listen(path, body)
        try:
            async for event in events:
                yield _understood(event, read_event)
                self._lifetime.check()
        except Unreachable:
            self._lifetime.check()  # it may have been closed meanwhile
            raise
        finally:
            await events.close()


def _understood(answer: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> T:
    """Return what is read in an answer. Raises: ProtocolError where a member is missing or is of another kind."""
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        told = f"{type(failure).__name__}: {failure}"
        raise ProtocolError(
            f"an answer or event that is none of this version ({told}): {str(answer)[:200]}"
        ) from failure


def _steps(model: str, items: Iterable[StepItem], returns: Returns, options: Mapping[str, Any]) -> bytes:
    given = enumerate(listed(items, "items", "StepItem"))
    members = [step_item(item, f"items[{index}]") for index, item in given]
    return encoded({"model": model, "items": members, "return": returns, **options})


def _prompts(items: Iterable[StepItem], options: Mapping[str, Any], **streams: bool) -> bytes:
    if "stream" in options:
        raise ValueError("stream is no option: generate and generate_many answer whole, generate_stream in events")
    given = enumerate(listed(items, "items", "StepItem"))
    return encoded({"items": [prompt_item(item, f"items[{index}]") for index, item in given], **options, **streams})
