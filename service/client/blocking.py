"""The client without asyncio: the same calls, which wait.

The work is the async client's, on an event loop in a thread of its own; so it can be used from any thread, and where an
event loop runs already. Invariants: a call that is interrupted (Ctrl-C) is cancelled there, too; no call waits for a
thread that is not there, as after a fork or when the client was closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import numpy.typing as npt

from service.client.asynchronous import AsyncClient, Returns
from service.client.inputs import NEW, Array, Inputs, New, StepItem, listed, steps
from service.client.results import Batch, ForecastResult, SentimentResult, StepOutput, StepResult
from service.client.streaming import MAPPED, MOST_OUTSTANDING, AsyncStream

T = TypeVar("T")
CLOSED = "the client is closed; make a new one"


class _Worker:
    """An async client and its event loop in a thread, of one process. The first call starts the thread, and the end of
    the program ends it at the latest."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._process = os.getpid()
        self._lock = threading.Lock()  # what is submitted was so before the end
        self._thread: threading.Thread | None = None
        self._streams: WeakSet[AsyncStream] = WeakSet()
        self._closed = False

    @property
    def runs(self) -> bool:
        """Whether it can be used: it was not closed, and this is the process that it was made in, not a fork of it."""
        return not self._closed and self._process == os.getpid()

    def own(self, stream: AsyncStream) -> AsyncStream:
        """Return the stream, which will be closed with this. Raises: RuntimeError where this was."""
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            self._streams.add(stream)
        return stream

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work there, and wait for it. Raises: RuntimeError where there is nobody to do it."""
        try:
            future = self._submit(work)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise RuntimeError(f"closed during this call: {CLOSED}") from None
            raise
        except BaseException:
            future.cancel()
            raise

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._process != os.getpid():
            raise RuntimeError("the stream belongs to the process before the fork; open another here, from its `state`")
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._thread is None:
                self._loop, self._end = asyncio.new_event_loop(), asyncio.Event()
                thread = threading.Thread(target=self._work, name="baton-client", daemon=True)
                thread.start()
                self._thread = thread
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        async with self.client:
            await self._end.wait()
            await asyncio.gather(*(stream.close() for stream in self._streams))

    def close(self) -> None:
        """Close the client and its streams, cancel what still runs, and end."""
        with self._lock:
            already, self._closed = self._closed, True
        if self._thread is not None:
            if not already:
                self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()


class Client:
    """A client of one service; see AsyncClient, whose methods these are. Close it, or use it as a context manager.

    It may be used in any thread, and in a forked process, which gets connections of its own.
    """

    def __init__(self, urls: str | Iterable[str], *, api_key: str | None = None, timeout: float = 60.0) -> None:
        given = urls if isinstance(urls, str) else list(listed(urls, "urls", "URLs"))
        self._make = partial(AsyncClient, given, api_key=api_key, timeout=timeout)
        self._workers = {os.getpid(): _Worker(self._make())}  # of this process, and of those it was forked from
        self._closed = False

    @property
    def _worker(self) -> _Worker:
        if self._closed:
            raise RuntimeError(CLOSED)
        process = os.getpid()
        if process not in self._workers:
            self._workers.setdefault(process, _Worker(self._make()))  # of two threads the first one's
        return self._workers[process]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process, those of streams, too."""
        self._closed = True
        worker = self._workers.get(os.getpid())
        if worker is not None:
            worker.close()

    def sentiment(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[SentimentResult]:
        """Label texts, given as such or as {"id", "text"}."""
        worker = self._worker
        return worker.run(worker.client.sentiment(texts, **options))

    def forecast(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], horizon: int, **options: Any
    ) -> Batch[ForecastResult]:
        """Forecast the next `horizon` values of series, given as values or as {"values", "id", "start", "freq"}."""
        worker = self._worker
        return worker.run(worker.client.forecast(series, horizon, **options))

    def step(
        self, model: str, inputs: Inputs, *, state: str | New = NEW, returns: Returns = "last", **options: Any
    ) -> StepResult:
        """Take the next steps of one session: from a token, or as a new one."""
        worker = self._worker
        return worker.run(worker.client.step(model, inputs, state=state, returns=returns, **options))

    def step_many(
        self, model: str, items: Iterable[StepItem], *, returns: Returns = "last", **options: Any
    ) -> Batch[StepResult]:
        """Take the next steps of many sessions in one request."""
        worker = self._worker
        return worker.run(worker.client.step_many(model, items, returns=returns, **options))

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
        """Return a stream of one session, to be entered with `with`."""
        worker = self._worker
        stream = worker.client.stream(
            model, state=state, checkpoint_every=checkpoint_every, returns=returns, binary=binary, **options
        )
        return Stream(worker.own(stream), worker)

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        worker = self._worker
        return worker.run(worker.client.models())

    def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        worker = self._worker
        return worker.run(worker.client.info())


class Stream:
    """One session on one connection at a time; see AsyncStream, whose methods these are."""

    def __init__(self, stream: AsyncStream, worker: _Worker) -> None:
        self._stream, self._worker = stream, worker

    def __enter__(self) -> Self:
        self._worker.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. What no checkpoint covers stays in `unacknowledged`.

        A forked process has no part in the connection, and leaves it as it is.
        """
        if self._worker.runs:
            self._worker.run(self._stream.close())

    @property
    def state(self) -> str | None:
        """The token of the last checkpoint, else the one the stream began with; None where it began a session."""
        return self._stream.state

    @property
    def step_count(self) -> int:
        """The steps that the session had taken at the last checkpoint."""
        return self._stream.step_count

    @property
    def unacknowledged(self) -> list[Array | str]:
        """The inputs that were sent since the last checkpoint."""
        return self._stream.unacknowledged

    @property
    def outstanding(self) -> int:
        """How many inputs were sent whose outputs were not received."""
        return self._stream.outstanding

    def send(self, inputs: Inputs) -> None:
        """Send the next steps; `recv` has what they give. It waits while 32 outputs were not received."""
        self._worker.run(self._stream.send(steps(inputs)))

    def recv(self) -> StepOutput:
        """Return the outputs of the next input that was sent."""
        return self._worker.run(self._stream.recv())

    def step(self, inputs: Inputs) -> StepOutput:
        """Send the next steps and return their outputs: one round trip."""
        return self._worker.run(self._stream.step(steps(inputs)))

    def map(self, inputs: Iterable[Inputs]) -> Iterator[StepOutput]:
        """Yield the outputs of each input, in order, with up to 32 inputs under way: for inputs that are at hand."""
        # In this thread: what they are made from may be slow, or use this client.
        for one in listed(inputs, "inputs", MAPPED):
            self.send(one)
            if self.outstanding == MOST_OUTSTANDING:
                yield self.recv()
        while self.outstanding:
            yield self.recv()

    def checkpoint(self) -> str:
        """Return a token of the point after all inputs so far; their outputs can still be received."""
        return self._worker.run(self._stream.checkpoint())
