"""A TCP proxy of the tests' own, which treats connections as badly as it is told, from any thread and at any time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio.from_thread import start_blocking_portal

PIECE_BYTES = 65_536


class Middleman:
    """Passes on what clients and a server say; listens at `address`, and has seen `ended` connections end.

    New connections go to `target`. On its way to the server each piece waits `delay_s`, and while it is held back. A
    connection on which nothing is said for `idle_s` ends. Each number in `cuts` is for a new connection, which breaks
    after so many bytes of answers.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.delay_s = 0.0
        self.idle_s: float | None = None
        self.cuts: list[int] = []
        self.ended = 0

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def hold_back(self) -> None:
        """Pass on nothing that clients say until `let_go`."""
        self._loop.call_soon_threadsafe(self._free.clear)

    def let_go(self) -> None:
        self._loop.call_soon_threadsafe(self._free.set)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        self._loop, self._free = asyncio.get_running_loop(), asyncio.Event()
        self._free.set()
        serving: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer))
            task.add_done_callback(lambda _: writer.close())  # it may be cancelled before it begins
            serving.add(task)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
            self.address: tuple[str, int] = listening.sockets[0].getsockname()
            try:
                yield
            finally:
                await _end(serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self.idle_s) as limit:
                await self._pass_on(reader, writer, limit)
        except (OSError, TimeoutError):  # the server is not there, or nobody said anything
            pass
        finally:
            self.ended += 1

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: asyncio.Timeout
    ) -> None:
        there, back = await asyncio.open_connection(*self.target)
        ways = [self._ask(reader, back, limit), self._answer(there, writer, limit)]
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            back.close()  # before what may be cancelled once more
            await _end(tasks)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: asyncio.Timeout) -> None:
        while data := await reader.read(PIECE_BYTES):
            self._heard(limit)
            await asyncio.sleep(self.delay_s)
            await self._free.wait()
            writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: asyncio.Timeout) -> None:
        left = self.cuts.pop(0) if self.cuts else sys.maxsize
        while left and (data := await reader.read(min(left, PIECE_BYTES))):
            self._heard(limit)
            left -= len(data)
            writer.write(data)

    def _heard(self, limit: asyncio.Timeout) -> None:
        if self.idle_s is not None:
            limit.reschedule(self._loop.time() + self.idle_s)


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def middleman(target: tuple[str, int]) -> Iterator[Middleman]:
    """Put one in front of what listens at `target`."""
    proxy = Middleman(target)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy.listen()):
        yield proxy
