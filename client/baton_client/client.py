"""The client without asyncio: the calls of AsyncClient, which wait.

It has no work of its own: an async client does it, in the thread of a portal, so it can be used from any thread, and
where an event loop runs already. The signatures stand twice, here and in AsyncClient, because editors and documentation
read them from the source. Invariant: a process uses the portal that it made, never that of another process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from baton_client.async_client import AsyncClient, Returns
from baton_client.generation import Generation
from baton_client.inputs import NEW, Condition, Inputs, New, StepItem, listed
from baton_client.portal import CLOSED, Portal
from baton_client.results import (
    Batch,
    ClassifyResult,
    ForecastResult,
    GenerateResult,
    SentimentResult,
    StepResult,
    TagResult,
    TransformResult,
)
from baton_client.stream import Stream
from baton_client.translations import TranslateResult


class Client:
    """A client of one service. Its methods are those of AsyncClient. Close it, or use it as a context manager.

    It may be used in any thread, and in a forked process, which gets connections of its own. Units: timeout in seconds,
    as AsyncClient has it. Raises: what AsyncClient raises, but for event loops.
    """

    def __init__(self, urls: str | Iterable[str], *, api_key: str | None = None, timeout: float = 60.0) -> None:
        given = urls if isinstance(urls, str) else list(listed(urls, "urls", "URLs"))
        self._make = partial(AsyncClient, given, api_key=api_key, timeout=timeout)
        self._portals = {os.getpid(): Portal(self._make())}  # of this process, and of those it was forked from
        self._closed = False

    @property
    def _portal(self) -> Portal:
        if self._closed:
            raise RuntimeError(CLOSED)
        process = os.getpid()
        if process not in self._portals:
            self._portals.setdefault(process, Portal(self._make()))  # two threads use the same
        return self._portals[process]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process and its streams. Calls under way raise a RuntimeError."""
        self._closed = True
        portal = self._portals.get(os.getpid())
        if portal is not None:
            portal.close()

    def sentiment(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[SentimentResult]:
        """Label texts. Each is a text or a mapping {"text", "id"}."""
        portal = self._portal
        return portal.run(portal.client.sentiment(texts, **options))

    def forecast(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], horizon: int, **options: Any
    ) -> Batch[ForecastResult]:
        """Forecast the next `horizon` values of series. Each is values or a mapping {"values", "id", "start", "freq"}.

        Shapes: values are numbers, or rows for a model of several channels. NaN is a missing value; `missing=` says
        what to do with it.
        """
        portal = self._portal
        return portal.run(portal.client.forecast(series, horizon, **options))

    def tag(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[TagResult]:
        """Label the words of texts. Each is a text, or a mapping {"text", "id"} or {"tokens", "id"}: words."""
        portal = self._portal
        return portal.run(portal.client.tag(texts, **options))

    def translate(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[TranslateResult]:
        """Translate texts. Each is a text or a mapping {"text", "id"}."""
        portal = self._portal
        return portal.run(portal.client.translate(texts, **options))

    def transform(self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], **options: Any) -> Batch[TransformResult]:
        """Make of series others of as many values. Each is values, or a mapping {"values", "id"} or {"inputs", "id"}.

        Shapes: a series is numbers, those of a signal its samples, or rows of features.
        """
        portal = self._portal
        return portal.run(portal.client.transform(series, **options))

    def classify(self, items: Iterable[Mapping[str, Any] | Inputs | bytes], **options: Any) -> Batch[ClassifyResult]:
        """Label sequences. Each is a text, numbers, rows, the bytes of a WAV file, or a mapping of that and "id".

        The members of a mapping are "text", "values", "inputs" or "audio".
        """
        portal = self._portal
        return portal.run(portal.client.classify(items, **options))

    def generate(
        self,
        prompt: Inputs | None = None,
        *,
        state: str | New = NEW,
        condition: Condition | None = None,
        **options: Any,
    ) -> GenerateResult:
        """Generate what comes after a prompt, a state, a condition, or nothing. Raises: the item's ApiError as well.

        What was cut short is not asked for again: the error's `choices` have what was written, to go on from. Shapes:
        a prompt is a text; for a model without a tokenizer k ids, or k rows of a point.
        """
        portal = self._portal
        return portal.run(portal.client.generate(prompt, state=state, condition=condition, **options))

    def generate_many(self, items: Iterable[StepItem], **options: Any) -> Batch[GenerateResult]:
        """Generate what comes after several prompts, in one request."""
        portal = self._portal
        return portal.run(portal.client.generate_many(items, **options))

    def generate_stream(
        self,
        prompt: Inputs | None = None,
        *,
        state: str | New = NEW,
        condition: Condition | None = None,
        **options: Any,
    ) -> Generation:
        """Generate, and yield what comes as it comes; the last event of each choice has the state.

        To close the iterator leaves the connection, and the service stops. It is tried again until the first event has
        come, and never after that. Units: the client's timeout is for the first event.
        """
        portal = self._portal
        events = portal.client.generate_stream(prompt, state=state, condition=condition, **options)
        return Generation(events, portal)

    def step(
        self,
        model: str,
        inputs: Inputs | None = None,
        *,
        state: str | New = NEW,
        begin: Condition | None = None,
        returns: Returns = "last",
        **options: Any,
    ) -> StepResult:
        """Take the next steps of one session, from a token or from its beginning. Raises: the item's ApiError as well.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text. Where a session begins from
        a condition they may be left out.
        """
        portal = self._portal
        return portal.run(portal.client.step(model, inputs, state=state, begin=begin, returns=returns, **options))

    def step_many(
        self, model: str, items: Iterable[StepItem], *, returns: Returns = "last", **options: Any
    ) -> Batch[StepResult]:
        """Take the next steps of many sessions in one request."""
        portal = self._portal
        return portal.run(portal.client.step_many(model, items, returns=returns, **options))

    def stream(
        self,
        model: str,
        *,
        state: str | New = NEW,
        checkpoint_every: int = 100,
        returns: Returns = "last",
        binary: bool = False,
        **options: Any,
    ) -> Stream:
        """Return a stream of one session, to be entered with `with`.

        `binary` sends raw numbers, for models that take and give floats alone; it is the fast way. Units:
        checkpoint_every in steps; it bounds what is kept and sent again when a replica is lost.
        """
        portal = self._portal
        stream = portal.client.stream(
            model, state=state, checkpoint_every=checkpoint_every, returns=returns, binary=binary, **options
        )
        portal.add(stream)
        return Stream(stream, portal)

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        portal = self._portal
        return portal.run(portal.client.models())

    def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        portal = self._portal
        return portal.run(portal.client.info())
