"""The client without asyncio: the same calls, which wait.

The work is the async client's, on an event loop in a thread of its own; so it can be used from any thread, and where an
event loop runs already. Invariant: a call that is interrupted (Ctrl-C) is cancelled there, too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy.typing as npt

from service.client.asynchronous import AsyncClient, Returns
from service.client.inputs import NEW, Array, Inputs, New, StepItem, listed, steps
from service.client.results import Batch, ForecastResult, SentimentResult, StepOutput, StepResult
from service.client.streaming import MAPPED, MOST_OUTSTANDING, AsyncStream

T = TypeVar("T")


class _Loop:
    """An event loop in a thread, which ends with the program at the latest."""

    def __init__(self) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(_live(started),), name="baton-client", daemon=True)
        self._thread.start()
        self._loop, self._end = started.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, and end."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


async def _live(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    end = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), end))
    await end.wait()


class Client:
    """A client of one service; see AsyncClient, whose methods these are. Close it, or use it as a context manager."""

    def __init__(self, urls: str | Iterable[str], *, api_key: str | None = None, timeout: float = 60.0) -> None:
        self._client = AsyncClient(urls, api_key=api_key, timeout=timeout)
        self._loop = _Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Close streams before."""
        self._loop.run(self._client.close())
        self._loop.close()

    def sentiment(self, texts: Iterable[str | Mapping[str, Any]], **options: Any) -> Batch[SentimentResult]:
        """Label texts, given as such or as {"id", "text"}."""
        return self._loop.run(self._client.sentiment(texts, **options))

    def forecast(
        self, series: Iterable[Mapping[str, Any] | npt.ArrayLike], horizon: int, **options: Any
    ) -> Batch[ForecastResult]:
        """Forecast the next `horizon` values of series, given as values or as {"values", "id", "start", "freq"}."""
        return self._loop.run(self._client.forecast(series, horizon, **options))

    def step(
        self, model: str, inputs: Inputs, *, state: str | New = NEW, returns: Returns = "last", **options: Any
    ) -> StepResult:
        """Take the next steps of one session: from a token, or as a new one."""
        return self._loop.run(self._client.step(model, inputs, state=state, returns=returns, **options))

    def step_many(
        self, model: str, items: Iterable[StepItem], *, returns: Returns = "last", **options: Any
    ) -> Batch[StepResult]:
        """Take the next steps of many sessions in one request."""
        return self._loop.run(self._client.step_many(model, items, returns=returns, **options))

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
        stream = self._client.stream(
            model, state=state, checkpoint_every=checkpoint_every, returns=returns, binary=binary, **options
        )
        return Stream(stream, self._loop)

    def models(self) -> list[dict[str, Any]]:
        """Return what is served."""
        return self._loop.run(self._client.models())

    def info(self) -> dict[str, Any]:
        """Return every limit, device and version."""
        return self._loop.run(self._client.info())


class Stream:
    """One session on one connection at a time; see AsyncStream, whose methods these are."""

    def __init__(self, stream: AsyncStream, loop: _Loop) -> None:
        self._stream, self._loop = stream, loop

    def __enter__(self) -> Self:
        self._loop.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. What no checkpoint covers stays in `unacknowledged`."""
        self._loop.run(self._stream.close())

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
        self._loop.run(self._stream.send(steps(inputs)))

    def recv(self) -> StepOutput:
        """Return the outputs of the next input that was sent."""
        return self._loop.run(self._stream.recv())

    def step(self, inputs: Inputs) -> StepOutput:
        """Send the next steps and return their outputs: one round trip."""
        return self._loop.run(self._stream.step(steps(inputs)))

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
        return self._loop.run(self._stream.checkpoint())
