"""Which rows are let in: room for so many and no long wait, a refusal at once where not, or a wait for room.

It knows counts, times, tenants and asyncio, not rows. All of it happens on the event loop; it is not thread-safe.
Invariants:

- No tenant holds more than `max_rows` rows. Once as many are held by all together, a tenant is let in up to its equal
  share among those who hold rows, and in any case while it holds none: all together may then hold more until the
  others are down to their shares.
- Nobody is let in whose first row would wait longer than `max_wait_s`, in the order in which the queue serves: tenants
  in turns, the rows of each in fair order. Its own rows make no request wait.
- Callers of one tenant who wait for room are let in first come, first served; one who gives up passes the room on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Iterable

from service.batching.backlog import Backlog, Stay
from service.batching.pace import Pace
from service.errors import NotReady, Overloaded, RequestError


def _worker_stopped() -> RequestError:
    return NotReady("the worker of this model has stopped", retry_after_ms=1000)


class Admission:
    """Room for rows, closed until `open` is called.

    `rows` are held now. `pace` is the measured one; before the first run it is unknown, and no wait is too long.
    Units: times in seconds of `clock`.
    """

    def __init__(self, *, max_rows: int, max_wait_s: float, clock: Callable[[], float]) -> None:
        self._max_rows, self._max_wait_s, self._clock = max_rows, max_wait_s, clock
        self._refusal: Callable[[], RequestError] | None = _worker_stopped
        self._backlogs: dict[str, Backlog] = {}  # of the tenants that hold rows
        self._numbers = itertools.count()
        # By tenant a heap: those who wait for room, by their turn. The second number keeps futures from being compared.
        self._callers: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self.rows, self.pace = 0, Pace()

    def open(self) -> None:
        self._refusal = None

    def close(self, refusal: Callable[[], RequestError] = _worker_stopped) -> None:
        """Refuse everybody from here on, those who wait for room too, with what `refusal` makes."""
        self._refusal = refusal
        self._call_in()

    def check(self, rows: int, tenant: str, *, ahead: int = 0, timeout_s: float = math.inf) -> None:
        """Check that so many more rows would be let in, to wait no longer than `timeout_s` either; no rows always are.

        Of the tenant's rows `ahead` are on their way here and will be let in first.

        Raises: Overloaded when they would not; what `close` was given; NotReady before `open`.
        """
        if self._refusal is not None:
            raise self._refusal()
        if not rows:
            return
        room = self._room(tenant) - ahead
        if rows > room:
            message = f"{self.rows} rows wait or run already and {rows} more do not fit"
            before = min(
                self.rows + ahead + rows - self._max_rows, (rows - room) * len(self._backlogs)
            )  # of all, or in turns
            raise Overloaded(message, limit=self._max_rows, retry_after_ms=_ms(self.pace.row_s * before))
        wait_s = self._wait_s(tenant) + ahead * self.pace.row_s
        longest_s = min(timeout_s, self._max_wait_s)
        if wait_s > longest_s:
            message = f"a row would wait {_ms(wait_s)} ms for its run; at most {_ms(longest_s)} here"
            raise Overloaded(message, limit=_ms(longest_s), retry_after_ms=_ms(wait_s - longest_s))

    def take(self, rows: int, tenant: str, *, timeout_s: float = math.inf) -> Stay:
        """Let so many rows in; whoever does must `release` each of them in the end.

        Raises: what `check` raises.
        """
        self.check(rows, tenant, timeout_s=timeout_s)
        backlog = self._backlogs.get(tenant)
        if backlog is None:
            backlog = self._backlogs[tenant] = Backlog(tenant)
        self.rows += rows
        return backlog.add(rows, now=self._clock(), pace_s=self.pace.row_s)

    def release(self, stays: Iterable[Stay]) -> None:
        """Let go of rows, one of each of `stays`."""
        for stay in stays:
            self.rows -= 1
            stay.backlog.release(stay)
            if not stay.backlog.rows:
                del self._backlogs[stay.tenant]
        self._call_in()

    async def wait(self, tenant: str, *, rows: int = 1, timeout_s: float) -> float:
        """Wait until so many more rows would be let in, and return how much of `timeout_s` is left.

        Raises: what `check` raises; Overloaded only when there was no room within `timeout_s`.
        """
        if not self._lacks_room(tenant, rows):
            self.check(rows, tenant)
            return timeout_s
        loop = asyncio.get_running_loop()
        until, number = loop.time() + timeout_s, next(self._numbers)
        while self._lacks_room(tenant, rows) and loop.time() < until:
            called = loop.create_future()
            heapq.heappush(self._callers.setdefault(tenant, []), (number, next(self._numbers), called))
            timer = loop.call_at(until, _call, called)
            try:
                await called
            except asyncio.CancelledError:
                self._call_in()  # another caller, should this one have been called
                raise
            finally:
                timer.cancel()
        self.check(rows, tenant)
        return until - loop.time()

    def wait_ms(self, tenant: str) -> int:
        """Return how long a row that came now would wait for its run, at the measured pace; at least 1."""
        return _ms(self._wait_s(tenant))

    def _wait_s(self, tenant: str) -> float:
        own = self._backlogs.get(tenant)
        if own is None:
            return 0.0
        now = self._clock()
        due = own.due(now)
        before = due if len(self._backlogs) == 1 else sum(min(due, other.due(now)) for other in self._backlogs.values())
        return self.pace.row_s * before

    def _room(self, tenant: str) -> int:
        """Return how many rows the tenant may add, by their number alone."""
        own = self._backlogs.get(tenant)
        if own is None:
            return self._max_rows
        return max(self._max_rows - self.rows, self._max_rows // len(self._backlogs) - own.rows)

    def _lacks_room(self, tenant: str, rows: int) -> bool:
        return self._refusal is None and (self._entries(tenant) < 1 or self._room(tenant) < rows)

    def _entries(self, tenant: str) -> int:
        """Return how many rows of the tenant would be let in now, one by one."""
        left_s, pace_s = self._max_wait_s - self._wait_s(tenant), self.pace.row_s
        if left_s < 0:
            return 0
        return int(min(self._room(tenant), 1 + left_s / pace_s)) if pace_s else self._room(tenant)

    def _call_in(self) -> None:
        """Let as many callers try again as there may be room for; all of them when closed."""
        for tenant in list(self._callers):
            callers = self._callers[tenant]
            room = self._entries(tenant) if self._refusal is None else len(callers)
            while callers and room > 0:
                _, _, called = heapq.heappop(callers)
                if not called.done():
                    called.set_result(None)
                    room -= 1
            if not callers:
                del self._callers[tenant]


def _call(called: asyncio.Future[None]) -> None:
    if not called.done():
        called.set_result(None)


def _ms(seconds: float) -> int:
    return max(1, math.ceil(1000 * seconds))
