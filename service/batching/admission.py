"""Which rows are let in: room for so many, a refusal at once where they do not fit, or a wait for room.

It knows counts, times and asyncio, not rows. All of it happens on the event loop; it is not thread-safe. Invariants:
never more than `max_rows` rows are held; callers who wait for room are let in first come, first served; a caller who
gives up passes the room on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable

from service.errors import NotReady, Overloaded, RequestError

SMOOTHING = 0.2  # weight of the newest run in the measured seconds per row


def _worker_stopped() -> RequestError:
    return NotReady("the worker of this model has stopped", retry_after_ms=1000)


class Admission:
    """Room for `max_rows` rows, closed until `open` is called.

    `rows` are held now; `pace_s` is the measured time in which one of them is served, for any thread to read.
    """

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._refusal: Callable[[], RequestError] | None = _worker_stopped
        self._numbers = itertools.count()
        # A heap: those who wait for room, by their turn. The second number keeps futures from being compared.
        self._callers: list[tuple[int, int, asyncio.Future[None]]] = []
        self.rows, self.pace_s = 0, 0.0

    def open(self) -> None:
        self._refusal = None

    def close(self, refusal: Callable[[], RequestError] = _worker_stopped) -> None:
        """Refuse everybody from here on, those who wait for room too, with what `refusal` makes."""
        self._refusal = refusal
        self._call_in()

    def check(self, rows: int) -> None:
        """Check that so many more rows would be let in.

        Raises: Overloaded when they do not all fit; what `close` was given; NotReady before `open`.
        """
        if self._refusal is not None:
            raise self._refusal()
        if self._lacks_room(rows):
            message = f"{self.rows} rows wait or run already and {rows} more do not fit"
            raise Overloaded(message, limit=self._max_rows, retry_after_ms=self.drained_ms)

    def take(self, rows: int) -> None:
        """Let so many rows in; whoever does must `release` them in the end.

        Raises: what `check` raises.
        """
        self.check(rows)
        self.rows += rows

    def release(self, rows: int) -> None:
        self.rows -= rows
        self._call_in()

    async def wait(self, *, timeout_s: float) -> float:
        """Wait until one more row would be let in, and return how much of `timeout_s` is left.

        Raises: what `check` raises; Overloaded only when there was no room within `timeout_s`.
        """
        if not self._lacks_room(1):
            self.check(1)
            return timeout_s
        loop = asyncio.get_running_loop()
        until, number = loop.time() + timeout_s, next(self._numbers)
        while self._lacks_room(1) and loop.time() < until:
            called = loop.create_future()
            heapq.heappush(self._callers, (number, next(self._numbers), called))
            timer = loop.call_at(until, _call, called)
            try:
                await called
            except asyncio.CancelledError:
                self._call_in()  # another caller, should this one have been called
                raise
            finally:
                timer.cancel()
        self.check(1)
        return until - loop.time()

    @property
    def drained_ms(self) -> int:
        """How long the rows held now will take at the measured pace."""
        return max(1, math.ceil(1000 * self.pace_s * self.rows))

    def keep_pace(self, seconds_per_row: float) -> None:
        """Take in what the newest run measured."""
        weight = SMOOTHING if self.pace_s else 1.0
        self.pace_s += weight * (seconds_per_row - self.pace_s)

    def _lacks_room(self, rows: int) -> bool:
        return self._refusal is None and self.rows + rows > self._max_rows

    def _call_in(self) -> None:
        """Let as many callers try again as there may be room for; all of them when closed."""
        room = self._max_rows - self.rows if self._refusal is None else len(self._callers)
        while self._callers and room > 0:
            _, _, called = heapq.heappop(self._callers)
            if not called.done():
                called.set_result(None)
                room -= 1


def _call(called: asyncio.Future[None]) -> None:
    if not called.done():
        called.set_result(None)
