"""What is generated, piece by piece, without asyncio: the events of `AsyncClient.generate_stream`.

It knows the portal, not what is in an event. Invariant: one that is left before its end leaves the connection: at once
where it is closed, else when nothing refers to it any more. One that was interrupted never seems to be at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import Self

from baton_client.portal import Portal
from baton_client.results import GenerateEvent


class Generation(Iterator[GenerateEvent]):
    """The events of one request, made by `Client.generate_stream`, to be gone through once. Close it to end early.

    Raises: RuntimeError where an earlier wait for an event was interrupted, as by Ctrl-C: what came then may be lost.
    """

    def __init__(self, events: AsyncGenerator[GenerateEvent, None], portal: Portal) -> None:
        self._events, self._portal = events, portal
        self._turn = asyncio.Lock()  # an interrupted call may still be ending
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> GenerateEvent:
        try:
            event = self._portal.run(self._next())
        except BaseException:
            self._interrupted = True
            raise
        if isinstance(event, Exception):
            raise event
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Leave the connection; the service stops. A forked process has no part in it."""
        if self._portal.usable:
            self._portal.run(self._end())

    async def _next(self) -> GenerateEvent | Exception | None:
        """Return the next event, None at the end, or what the events failed of."""
        async with self._turn:
            if self._interrupted:
                raise RuntimeError("these events were interrupted; ask again, from the last state that came")
            try:
                return await anext(self._events, None)
            except Exception as failure:  # noqa: BLE001 - raised in the caller's thread
                return failure

    async def _end(self) -> None:
        async with self._turn:
            await self._events.aclose()
