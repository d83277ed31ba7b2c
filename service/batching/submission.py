"""Rows under way for one caller, what became of them, and where their time went.

It knows times and counts, not how rows are chosen or run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

R = TypeVar("R")
A = TypeVar("A")


@dataclass(slots=True)
class Timing:
    """Where the time of one submission went. Units: seconds; cells are time steps, padding included or not."""

    queue_s: float = 0.0
    run_s: float = 0.0
    rows: int = 0
    cells: int = 0
    padded_cells: int = 0
    batch_rows: int = 0


@dataclass(slots=True)
class Served(Generic[A]):
    """The outcomes of one submission, in the order of its rows."""

    outcomes: list[A | Exception]
    timing: Timing


@dataclass(slots=True, eq=False)
class Submission(Generic[R]):
    """Rows under way for one caller; the batcher's own."""

    rows: Sequence[R]
    future: asyncio.Future[None]
    submitted: float
    deadline: float
    outcomes: list[Any]
    left: int
    unstarted: int
    closed: bool = False
    started: float = math.inf
    ended: float = 0.0
    cells: int = 0
    padded_cells: int = 0
    batch_rows: int = 0

    @property
    def timing(self) -> Timing:
        started = min(self.started, self.ended)  # no row may have been fit to run
        return Timing(
            queue_s=started - self.submitted,
            run_s=self.ended - started,
            rows=len(self.outcomes),
            cells=self.cells,
            padded_cells=self.padded_cells,
            batch_rows=self.batch_rows,
        )
