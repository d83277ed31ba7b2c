"""The rows queued for a model, and which of them run next.

It knows sizes, times and tenants; no threads, no HTTP, no ONNX. Three rules decide:

- Turns. Each run is the turn of the tenant for which the fewest cells were run since it has had rows here. Its rows
  come first, and those of others fill the run: a tenant waits for about a run of each other, whatever they have queued.

- Fair order. A request's rows are queued as if they had been sent one by one, at the pace at which rows are served:
  row n is due n paces after its request came. So a request with hundreds of rows shares the runs with later requests,
  and no row is queued for ever: its due time stays, while that of new rows grows.
- Like lengths. Its most overdue row always runs. Of the first rows in fair order, those nearest to it in size run with
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


class _Lane(Generic[E]):
    """The rows of one tenant: the first of them in fair order in `window`, the rest in a heap; the cells run for it."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.later: list[tuple[Place, E]] = []
        self.window: list[tuple[Place, E]] = []

    def refill(self, size: int, gone: Callable[[E], bool]) -> None:
        """Drop from the window what is gone, and fill it up to `size` rows."""
        self.window = [queued for queued in self.window if not gone(queued[1])]
        while self.later and len(self.window) < size:
            queued = heapq.heappop(self.later)
            if not gone(queued[1]):
                self.window.append(queued)


class RowQueue(Generic[E]):
    """Rows in turns and in fair order, from which runs are taken."""

    overhead_rows = 1.0  # what each step of a run costs besides its rows, in rows
    overhead_cells = 0.0  # what a run costs besides its steps, in cells

    def __init__(self, *, batch_cells: int, same_size: bool, gone: Callable[[E], bool]) -> None:
        """Make runs of at most `batch_cells` padded cells; a longer row runs alone.

        With `same_size` only rows of equal size share a run. A row that is `gone` is dropped.
        """
        self._batch_cells, self._same_size, self._gone = batch_cells, same_size, gone
        self._numbers = itertools.count()
        self._lanes: dict[str, _Lane[E]] = {}  # of the tenants that have rows queued
        self._turn = 0  # the cells of the tenant that had the last turn; who comes anew is not owed more

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, rows: Sequence[E], *, now: float, pace_s: float, tenant: str) -> None:
        """Add one request's rows; `pace_s` is the seconds that serving one row takes."""
        if rows and tenant not in self._lanes:
            self._lanes[tenant] = _Lane(self._turn)
        for number, row in enumerate(rows):
            heapq.heappush(self._lanes[tenant].later, ((now + number * pace_s, next(self._numbers)), row))

    def take(self) -> list[E]:
        """Remove and return the next run; empty when every queued row was gone."""
        self._refill()
        if not self._lanes:
            return []
        lanes = self._lanes.values()
        turn = min(lanes, key=lambda lane: lane.cells)
        self._turn = turn.cells
        seed = min(turn.window)[1].size
        window = [
            (abs(row.size - seed), lane is not turn, place, row, lane) for lane in lanes for place, row in lane.window
        ]
        window.sort(key=lambda queued: queued[:3])
        run = window[: self._cheapest([queued[3] for queued in window[:WINDOW]], seed)]
        for lane in lanes:
            lane.window = []
        for _, _, place, row, lane in window[len(run) :]:
            lane.window.append((place, row))
        for _, _, _, row, lane in run:
            lane.cells += row.size
        self._lanes = {tenant: lane for tenant, lane in self._lanes.items() if lane.window or lane.later}
        return [row for _, _, _, row, _ in run]

    def _refill(self) -> None:
        """Fill each tenant's part of the window, and drop the tenants that have no rows left."""
        for tenant, lane in list(self._lanes.items()):
            lane.refill(max(1, WINDOW // len(self._lanes)), self._gone)
            if not lane.window:
                del self._lanes[tenant]

    def _cheapest(self, rows: Sequence[E], seed: int) -> int:
        """Return how many of `rows`, nearest in size first, make a real cell cheapest."""
        if rows[-1].size == seed:  # all are of one size: more rows are always cheaper
            return max(1, min(len(rows), self._batch_cells // seed))
        best, lowest, longest, cells = 1, math.inf, 0, 0
        for count, row in enumerate(rows, start=1):
            longest = max(longest, row.size)
            cells += row.size
            if count > 1 and (count * longest > self._batch_cells or (self._same_size and row.size != seed)):
                break
            cost = (self.overhead_cells + longest * (self.overhead_rows + count)) / cells
            if cost <= lowest:
                best, lowest = count, cost
        return best
