"""Rows under way for one caller, what became of them, and where their time went.

It knows times and counts, not how rows are chosen or run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.batching.backlog import Stay

R = TypeVar("R")
A = TypeVar("A")


@dataclass(slots=True)
class Timing:
    """Where the time of one submission went; `submitted` is when it began, by the batcher's clock.

    Units: seconds; cells are time steps, padding included or not.
    """

    submitted: float = 0.0
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
class Submission(Generic[R, A]):
    """Rows under way for one caller, who waits for `future` in a `with` block; the rest is the batcher's own.

    `left` rows have no outcome yet, and `unstarted` of them may still be dropped. Once `closed`, no more rows start.
    `failed` says that a row did.
    """

    rows: Sequence[R]
    stay: Stay
    future: asyncio.Future[Served[A]]
    submitted: float
    deadline: float
    outcomes: list[Any]
    left: int
    unstarted: int
    close: Callable[[Submission[R, A]], None]
    closed: bool = False
    failed: bool = False
    started: float = math.inf
    cells: int = 0
    padded_cells: int = 0
    batch_rows: int = 0

    def __enter__(self) -> asyncio.Future[Served[A]]:
        return self.future

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Wait no longer: drop what has not run."""
        self.future.cancel()  # a failure that nobody waited for counts as seen too
        self.close(self)

    @property
    def waits(self) -> bool:
        """Whether the caller waits for rows of which some have not started."""
        return self.unstarted > 0 and not self.future.done()

    def timing(self, ended: float) -> Timing:
        """Return where the time went until `ended`, when it was answered."""
        started = min(self.started, ended)  # no row may have been fit to run
        return Timing(
            submitted=self.submitted,
            queue_s=started - self.submitted,
            run_s=ended - started,
            rows=len(self.outcomes),
            cells=self.cells,
            padded_cells=self.padded_cells,
            batch_rows=self.batch_rows,
        )


@dataclass(slots=True, eq=False)
class QueuedRow(Generic[R, A]):
    """One row of a submission, prepared, with its size."""

    submission: Submission[R, A]
    index: int
    size: int


def note_start(batch: Sequence[QueuedRow[Any, Any]], now: float) -> None:
    """Note in the submissions of `batch` that these rows start now, together."""
    longest = max(row.size for row in batch)
    for row in batch:
        submission = row.submission
        submission.started = min(submission.started, now)
        submission.cells += row.size
        submission.padded_cells += longest
        submission.batch_rows = max(submission.batch_rows, len(batch))
