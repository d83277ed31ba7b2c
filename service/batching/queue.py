"""The rows queued for a model, and which of them run next.

It knows sizes and times; no threads, no HTTP, no ONNX. Two rules decide:

- Fair order. A request's rows are queued as if they had been sent one by one, at the pace at which rows are served:
  row n is due n paces after its request came. So a request with hundreds of rows shares the runs with later requests,
  and no row is queued for ever: its due time stays, while that of new rows grows.
- Like lengths. The most overdue row always runs. Of the first rows in fair order, those nearest to it in size run with
  it, as many as make a real cell cheapest: a run of n rows costs `overhead_cells + longest * (overhead_rows + n)`,
  padding included.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What is queued; its owner knows the rest."""

    @property
    def size(self) -> int: ...


E = TypeVar("E", bound=Sized)
Place = tuple[float, int]  # when it is due, and who came first

WINDOW = 128  # a run chooses from so many rows, the first in fair order, and so never has more


class RowQueue(Generic[E]):
    """Rows in fair order, from which runs are taken."""

    overhead_rows = 1.0  # what each step of a run costs besides its rows, in rows
    overhead_cells = 0.0  # what a run costs besides its steps, in cells

    def __init__(self, *, batch_cells: int, same_size: bool, gone: Callable[[E], bool]) -> None:
        """Make runs of at most `batch_cells` padded cells; a longer row runs alone.

        With `same_size` only rows of equal size share a run. A row that is `gone` is dropped.
        """
        self._batch_cells, self._same_size, self._gone = batch_cells, same_size, gone
        self._numbers = itertools.count()
        self._later: list[tuple[Place, E]] = []  # a heap
        self._window: list[tuple[Place, E]] = []

    def __bool__(self) -> bool:
        return bool(self._window or self._later)

    def add(self, rows: Sequence[E], *, now: float, pace_s: float) -> None:
        """Add one request's rows; `pace_s` is the seconds that serving one row takes."""
        for number, row in enumerate(rows):
            heapq.heappush(self._later, ((now + number * pace_s, next(self._numbers)), row))

    def take(self) -> list[E]:
        """Remove and return the next run; empty when every queued row was gone."""
        self._refill()
        if not self._window:
            return []
        seed = min(self._window)[1].size
        self._window.sort(key=lambda queued: (abs(queued[1].size - seed), queued[0]))
        count = self._cheapest(seed)
        run, self._window = self._window[:count], self._window[count:]
        return [row for _, row in run]

    def _refill(self) -> None:
        self._window = [queued for queued in self._window if not self._gone(queued[1])]
        while self._later and len(self._window) < WINDOW:
            queued = heapq.heappop(self._later)
            if not self._gone(queued[1]):
                self._window.append(queued)

    def _cheapest(self, seed: int) -> int:
        """Return how many of the window, nearest in size first, make a real cell cheapest."""
        if self._window[-1][1].size == seed:  # all are of one size: more rows are always cheaper
            return max(1, min(len(self._window), self._batch_cells // seed))
        best, lowest, longest, cells = 1, math.inf, 0, 0
        for count, (_, row) in enumerate(self._window, start=1):
            longest = max(longest, row.size)
            cells += row.size
            if count > 1 and (count * longest > self._batch_cells or (self._same_size and row.size != seed)):
                break
            cost = (self.overhead_cells + longest * (self.overhead_rows + count)) / cells
            if cost <= lowest:
                best, lowest = count, cost
        return best
