"""The way from threads to an async client: a portal of anyio into an event loop in a thread of its own.

It knows nothing of the API. Invariants: a call that is interrupted (Ctrl-C) is cancelled in the loop, too; no call
waits for a thread that is not there, as after a fork or when the client was closed.

The thread is started here and not by anyio's `start_blocking_portal`, whose context waits for its thread when it is
collected: a program that ends without closing its client would hang, and so would a fork that drops its copy.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from baton_client.async_client import AsyncClient
from baton_client.async_stream import AsyncStream

T = TypeVar("T")
CLOSED = "the client is closed; make a new one"


class Portal:
    """An async client and its event loop in a thread, of one process.

    The first call starts the thread. It ends when this is closed or collected, and with the program at the latest.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._process = os.getpid()
        self._lock = threading.Lock()  # the loop takes a call before it stops, or not at all
        self._closed = False
        self._streams: set[AsyncStream] = set()
        self._opened: Future[BlockingPortal] = Future()
        self._portal: BlockingPortal | None = None  # where calls have been handed over
        stopped: Future[None] = Future()
        # The thread does not hold this object: nothing would ever collect it.
        self._thread = threading.Thread(
            target=_work, args=(client, self._streams, self._opened, stopped), name="baton-client", daemon=True
        )
        self._stop = weakref.finalize(self, stopped.set_result, None)
        self._stop.atexit = False  # the thread ends with the program then

    @property
    def usable(self) -> bool:
        """Whether it was not closed, and this is the process that made it, not a fork of it."""
        return not self._closed and self._process == os.getpid()

    def add(self, stream: AsyncStream) -> None:
        """Close the stream when this is closed. Raises: RuntimeError where this was."""
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            self._streams.add(stream)

    def end(self, stream: AsyncStream) -> None:
        """Close the stream. A forked process has no part in it, and a closed client has closed it."""
        if self.usable:
            self.run(stream.close())
            self._streams.discard(stream)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work in the loop, and wait for it. Raises: RuntimeError where there is no loop to do it."""
        call = _Call(work)
        try:
            return self._hand_over(call).result()
        except CancelledError:
            raise RuntimeError(f"closed during this call: {CLOSED}") from None
        except BaseException:
            if not call.over:
                self._abandon(call)
            raise

    def _hand_over(self, call: _Call[T]) -> Future[T]:
        if self._process != os.getpid():  # where a thread that is not there may have had the lock
            raise RuntimeError("the stream belongs to the process before the fork; open another here, from its `state`")
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._thread.ident is None:
                self._thread.start()
            self._portal = self._opened.result()
            return self._portal.start_task_soon(call)

    def _abandon(self, call: _Call[T]) -> None:
        """Cancel a call that nobody waits for any more, where the loop has it."""
        if self._process == os.getpid():
            with self._lock:
                if self._portal is not None and not self._closed:
                    self._portal.start_task_soon(call.cancel)
                    return
        call.forget()

    def close(self) -> None:
        """Close the client and its streams, cancel what still runs, and end the thread."""
        with self._lock:
            self._closed = True
        self._stop()
        if self._thread.ident is not None:
            self._thread.join()


class _Call(Generic[T]):
    """Work of the loop whose caller may be interrupted at any time, even before the portal has returned its future."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._task: asyncio.Task[Any] | None = None
        self.over = False

    async def __call__(self) -> T:
        self._task = asyncio.current_task()
        try:
            return await self._work
        finally:
            self.over = True

    def cancel(self) -> None:
        """Cancel it, in the loop. The portal keeps the order, so a call that has not begun was not handed over."""
        if self._task is not None:
            self._task.cancel()
        self.forget()

    def forget(self) -> None:
        """Close work that will never begin."""
        if self._task is None:
            self._work.close()


def _work(
    client: AsyncClient, streams: set[AsyncStream], opened: Future[BlockingPortal], stopped: Future[None]
) -> None:
    try:
        anyio.run(_live, client, streams, opened, stopped)
    except BaseException as failure:
        if opened.done():
            raise
        opened.set_exception(failure)


async def _live(
    client: AsyncClient, streams: set[AsyncStream], opened: Future[BlockingPortal], stopped: Future[None]
) -> None:
    async with client, BlockingPortal() as portal:
        opened.set_result(portal)
        await asyncio.wrap_future(stopped)
        await asyncio.gather(*[stream.close() for stream in [*streams]])
        await portal.stop(cancel_remaining=True)
