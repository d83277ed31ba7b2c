"""The rows that one tenant has waiting or running, and how many of them are due.

It knows counts and times, not rows. The queue serves in fair order: row n of a request is due n paces after the request
came, so of a large request most rows stand behind a row that comes now (`service.batching.queue`). Invariant: the cost
of asking does not grow with the rows.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Stay:
    """The rows of one request: `rows` that have not been released; row by row they are due until `last_due`.

    Units: seconds; `rate` rows a second, 0 where all are due at once.
    """

    backlog: Backlog
    rows: int
    last_due: float
    rate: float

    @property
    def tenant(self) -> str:
        return self.backlog.tenant


class Backlog:
    """What one tenant holds: `rows` in all."""

    def __init__(self, tenant: str) -> None:
        self.tenant, self.rows = tenant, 0
        self._spread: list[tuple[float, int, Stay]] = []  # a heap of stays with rows that are due later
        self._number = 0
        # Of those stays, the sums from which their rows to come follow: each has (last_due - now) * rate.
        self._reach = self._rate = 0.0

    def add(self, rows: int, *, now: float, pace_s: float) -> Stay:
        stay = Stay(self, rows, now, 0.0)
        self.rows += rows
        if rows > 1 and pace_s:
            stay.last_due, stay.rate = now + (rows - 1) * pace_s, 1 / pace_s
            self._number += 1
            heapq.heappush(self._spread, (stay.last_due, self._number, stay))
            self._reach += stay.last_due * stay.rate
            self._rate += stay.rate
        return stay

    def release(self, stay: Stay) -> None:
        """Let go of one row."""
        self.rows -= 1
        stay.rows -= 1
        if not stay.rows:
            self._forget(stay)

    def due(self, now: float) -> int:
        """Return how many rows go before one that comes now."""
        while self._spread and self._spread[0][0] <= now:
            self._forget(heapq.heappop(self._spread)[2])
        if not self._spread:
            self._reach = self._rate = 0.0
            return self.rows
        return min(self.rows, max(0, self.rows - round(self._reach - now * self._rate)))

    def _forget(self, stay: Stay) -> None:
        self._reach -= stay.last_due * stay.rate
        self._rate -= stay.rate
        stay.rate = 0.0
