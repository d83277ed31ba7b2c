"""The stream for asyncio: a session on a WebSocket that may break at any time, and each of its outputs exactly once.

It moves the journal's frames and reconnects; the journal knows what they mean. Invariant: a single task reads, so
answers come in order, and an input is sent on a connection only after all those before it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxyStatus, InvalidStatus

from baton_client.errors import ApiError, ProtocolError, Unreachable, read_refusal, reason
from baton_client.inputs import Array, Inputs, listed
from baton_client.journal import Journal
from baton_client.lifetime import Lifetime
from baton_client.results import StepOutput
from baton_client.retries import CONNECT_S, Limits, retrying
from baton_client.routes import Route

MAX_OUTSTANDING = 32  # inputs whose outputs the caller has not received
CLOSE_S = 1.0
MAPPED = "inputs, each of them k rows of features, k numbers or a text"
POLICY_VIOLATION, MESSAGE_TOO_BIG = 1008, 1009


class AsyncStream:
    """One session on one connection at a time; use it as a context manager, made by `AsyncClient.stream`.

    It keeps what was sent since the last checkpoint. When the connection is lost, or the replica drains, it goes on at
    the next URL from the last token, sends again what came after it, and drops the outputs that the caller has: each
    output comes once, in order. Memory is bounded by checkpoint_every and the inputs under way.

    Raises: ApiError from entering and from `recv` when a state cannot be used (never a new session in its place), and
    from `recv` in the place of an input that was refused, after which the stream goes on; StreamInterrupted when there
    was no progress for the client's timeout, or when the service failed at an input and failed again; RuntimeError once
    it is closed, and in another event loop than that in which it was entered.
    """

    def __init__(self, routes: Iterator[Route], headers: dict[str, str], limits: Limits, journal: Journal) -> None:
        self._routes, self._headers, self._limits, self._journal = routes, headers, limits, journal
        self._lifetime = Lifetime("stream", "open another, from its `state`,")
        self._connection: ClientConnection | None = None
        self._answers: deque[StepOutput | ApiError] = deque()
        self.outstanding = 0
        """How many inputs were sent whose outputs were not received."""
        self._advancing: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None
        self._limit = asyncio.Timeout(None)  # of the wait under way; every answer puts it off
        self._room = asyncio.Semaphore(MAX_OUTSTANDING)

    async def __aenter__(self) -> Self:
        self._lifetime.use()
        await self._patiently(self._connected)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. What no checkpoint covers stays in `unacknowledged`."""
        if not self._lifetime.end():
            return
        if self._advancing is not None:
            self._advancing.cancel()
            await asyncio.gather(self._advancing, return_exceptions=True)
        await self._drop()
        if self._flushing is not None:
            await self._flushing

    @property
    def state(self) -> str | None:
        """The token of the last checkpoint, else that of the beginning; None where the stream began a session."""
        return self._journal.state

    @property
    def step_count(self) -> int:
        """The steps that the session had taken at the last checkpoint."""
        return self._journal.step_count

    @property
    def unacknowledged(self) -> list[Array | str]:
        """The inputs that were sent since the last checkpoint."""
        return self._journal.unacknowledged

    async def send(self, inputs: Inputs) -> None:
        """Send the next steps; `recv` has what they give. It waits while 32 outputs were not received.

        Shapes: inputs are k rows of features, k numbers for a one-number model, or a text.

        Raises: ValueError for inputs that no frame can hold; TimeoutError when nothing was received meanwhile.
        """
        self._lifetime.use()
        try:
            async with asyncio.timeout(self._limits.call_s):
                await self._room.acquire()
        except TimeoutError:
            raise TimeoutError(f"{self.outstanding} outputs wait to be received; call recv() or use map()") from None
        try:
            self._lifetime.check()
            self._journal.add(inputs)
        except (ValueError, RuntimeError):
            self._room.release()
            raise
        self.outstanding += 1
        await self._flush()

    async def recv(self) -> StepOutput:
        """Return the outputs of the next input that was sent.

        Raises: ApiError when this input was refused; it was not part of the session, and the stream goes on.
        """
        self._lifetime.use()
        if not self.outstanding:
            raise RuntimeError("nothing to receive: the output of every input that was sent has been received")
        await self._until(lambda: bool(self._answers))
        answer = self._answers.popleft()
        self.outstanding -= 1
        self._room.release()
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def step(self, inputs: Inputs) -> StepOutput:
        """Send the next steps and return their outputs: one round trip."""
        self._lifetime.use()
        if self.outstanding:
            raise RuntimeError(f"{self.outstanding} outputs wait to be received first")
        await self.send(inputs)
        return await self.recv()

    async def map(self, inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[StepOutput]:
        """Yield the outputs of each input, in order, with up to 32 inputs under way: for inputs that are at hand.

        After the ApiError of a refused input, those under way can be received with `recv`.
        """
        async for steps_given in _each(inputs):
            await self.send(steps_given)
            if self.outstanding == MAX_OUTSTANDING:
                yield await self.recv()
        while self.outstanding:
            yield await self.recv()

    async def checkpoint(self) -> str:
        """Return a token of the point after all inputs so far; their outputs can still be received."""
        self._lifetime.use()
        asked = self._journal.ask_checkpoint()
        await self._flush()
        await self._until(lambda: asked.answer is not None)
        if isinstance(asked.answer, ApiError):
            raise asked.answer
        assert asked.answer is not None
        return asked.answer

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`. All who wait share the task that reads, which goes on when a waiter is cancelled."""
        while not ready():
            if self._advancing is None:
                self._advancing = asyncio.create_task(self._patiently(self._advance))
            task = self._advancing
            await asyncio.wait([task])
            if self._advancing is task:
                self._advancing = None
            self._lifetime.check()
            task.result()

    async def _patiently(self, attempt_to: Callable[[], Awaitable[None]]) -> None:
        """Attempt it until it succeeds. Raises: ApiError or ProtocolError at once, StreamInterrupted in the end."""
        try:
            async with asyncio.timeout(self._limits.call_s) as self._limit:
                async for attempt in retrying(self._limits.call_s):
                    with attempt:
                        await attempt_to()
        except (ApiError, Unreachable, TimeoutError) as failure:
            if isinstance(failure, ApiError) and not failure.transient:
                raise
            raise self._journal.interrupted(str(failure) or f"nothing for {self._limits.call_s:g} s") from failure

    async def _advance(self) -> None:
        """Read until there is progress: an output, an error, a checkpoint.

        Where the connection is lost in a replay that got further than those before it, the next replay has the whole
        time limit again.
        """
        progress, reached = self._journal.progress, self._journal.reached
        await self._connected()
        try:
            while self._journal.progress == progress:
                self._answers.extend(self._journal.receive(await self._heard()))
        except Unreachable:
            await self._drop()
            if self._journal.reached == reached:
                raise
        except ConnectionClosed as closed:
            await self._drop()
            code = closed.rcvd.code if closed.rcvd else None
            if code == POLICY_VIOLATION:
                raise ProtocolError(f"the service ended the stream: {closed}") from closed
            if code == MESSAGE_TOO_BIG:
                self._answers.extend(self._journal.refuse_largest())
            if self._journal.reached == reached:
                raise Unreachable(f"the stream broke: {closed}") from closed
        except BaseException:
            await self._drop()
            raise

    async def _heard(self) -> str | bytes:
        """Return the next frame, and put off the time limit. Raises: Unreachable in the silence."""
        assert self._connection is not None
        try:
            async with asyncio.timeout(self._limits.silence_s):
                frame = await self._connection.recv()
        except TimeoutError:
            raise Unreachable(f"the stream was silent for {self._limits.silence_s:g} s") from None
        self._limit.reschedule(asyncio.get_running_loop().time() + self._limits.call_s)
        return frame

    async def _connected(self) -> None:
        """Have a connection that goes on from the last token; all inputs after it are sent while answers are read."""
        if self._connection is not None:
            return
        route = next(self._routes)
        try:
            self._connection = await self._open(route)
        except (InvalidStatus, InvalidProxyStatus) as refused:
            answer = refused.response
            raise read_refusal(answer.status_code, answer.headers, bytes(answer.body or b"")) from refused
        except (OSError, InvalidHandshake, ConnectionClosed) as failure:
            if isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.code == MESSAGE_TOO_BIG:
                raise self._journal.opening_too_large() from failure
            silence = f"silent for {self._limits.silence_s:g} s" if isinstance(failure, TimeoutError) else ""
            raise Unreachable(f"{route.url}: {silence or reason(failure)}") from failure
        self._flushing = asyncio.create_task(self._flush())  # a replay may be more than fits on the way

    async def _open(self, route: Route) -> ClientConnection:
        opening = self._journal.opening()
        connection = await connect(
            re.sub("^http", "ws", route.url) + "/v1/stream",
            additional_headers=self._headers,
            compression=None,  # tokens and floats do not compress
            max_size=None,
            max_queue=None,  # bounded by what was sent; a paused reader could not answer pings
            open_timeout=min(CONNECT_S, self._limits.silence_s),
            close_timeout=CLOSE_S,
            **route.stream_options(),
        )
        try:
            async with asyncio.timeout(self._limits.silence_s):
                await connection.send(opening)
                answer = await connection.recv()
            self._answers.extend(self._journal.opened(answer))
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _flush(self) -> None:
        """Send what this connection has not sent; when it breaks, the next connection will."""
        async with self._sending:
            while (connection := self._connection) is not None and (frame := self._journal.next_frame()) is not None:
                try:
                    await connection.send(frame)
                except ConnectionClosed:
                    return
                except asyncio.CancelledError:  # it was sent or it was not: a new connection is sure to know
                    connection.transport.abort()
                    raise

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            finally:  # a task that is sending on it waits no longer
                connection.transport.abort()


async def _each(inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    if isinstance(inputs, AsyncIterable):
        async for steps_given in inputs:
            yield steps_given
    else:
        for steps_given in listed(inputs, "inputs", MAPPED):
            yield steps_given
