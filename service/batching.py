"""Rows from many callers, answered in shared runs.

There is no wait timer: what queued while the last run ran is the next batch, so load itself forms batches. It knows
asyncio and nothing of HTTP or ONNX: a row is anything that has a size, a run is any function of a list of rows.

Invariants: every submitted row is answered once, with its answer or an exception; all rows of a submission are
admitted or none; the queue never holds more than `queue_rows`; a row whose caller left, or whose deadline passed, is
never run; a run that fails fails its own rows and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from service.errors import DeadlineExceeded, Draining, InternalError, NotReady, Overloaded

log = logging.getLogger("baton.batching")

R = TypeVar("R")
A = TypeVar("A")
SMOOTHING = 0.2  # weight of the newest run in the measured seconds per row


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one submission went. Units: seconds; cells are time steps, padding included or not."""

    queue_s: float = 0.0
    run_s: float = 0.0
    rows: int = 0
    cells: int = 0
    padded_cells: int = 0
    batch_rows: int = 0


@dataclass(frozen=True, slots=True)
class Served(Generic[A]):
    """The outcomes of one submission, in the order of its rows."""

    outcomes: list[A | Exception]
    timing: Timing


class Observer(Protocol):
    """What the batcher tells of its work, as it happens."""

    def queued(self, rows: int) -> None: ...
    def waited(self, queue_s: float) -> None: ...
    def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None: ...


@dataclass(slots=True, eq=False)
class Submission(Generic[A]):
    """Rows under way for one caller; the batcher's own, but for `abandon`."""

    future: asyncio.Future[None]
    submitted: float
    deadline: float
    outcomes: list[Any]
    left: int
    started: float = math.inf
    cells: int = 0
    padded_cells: int = 0
    batch_rows: int = 0

    def abandon(self) -> None:
        """Drop what has not been run: nobody waits for it any more."""
        self.future.cancel()


@dataclass(slots=True, eq=False)
class _Waiting(Generic[R]):
    row: R
    size: int
    index: int
    submission: Submission[Any] = field(repr=False)


class Batcher(Generic[R, A]):
    """One queue, one thread, one run at a time.

    `run` is called on the batcher's own thread with rows whose padded cells (rows times the longest) stay within
    `batch_cells`, or with a single longer row. With `same_size` only rows of equal size share a run. `draining` says
    that the end has begun.
    """

    def __init__(
        self,
        run: Callable[[list[R]], Sequence[A | Exception]],
        *,
        size: Callable[[R], int],
        batch_cells: int,
        queue_rows: int,
        observer: Observer,
        same_size: bool = False,
        name: str = "batcher",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._size, self._clock, self._observer, self._name = run, size, clock, observer, name
        self._batch_cells, self._queue_rows, self._same_size = batch_cells, queue_rows, same_size
        self._queue: list[_Waiting[R]] = []
        self._running: list[_Waiting[R]] = []
        self._filled, self._idle = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._worker: asyncio.Task[None] | None = None
        self.draining = False
        self._seconds_per_row = 0.0

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work(), name=self._name)
        self._worker.add_done_callback(self._worker_ended)

    @property
    def alive(self) -> bool:
        """Whether the worker still takes rows."""
        return self._worker is not None and not self._worker.done()

    async def drain(self) -> None:
        """Refuse new rows, answer the waiting ones, then stop."""
        self.draining = True
        if self._worker is not None:
            idle = asyncio.create_task(self._idle.wait())
            await asyncio.wait({idle, self._worker}, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            self._worker.cancel()
            await asyncio.wait({self._worker})
        self._thread.shutdown()

    async def submit(self, rows: Sequence[R], *, timeout_s: float) -> Served[A]:
        """Answer `rows`, at least one, in their order; an outcome may be an exception where a run failed.

        Raises: what `admit` raises; DeadlineExceeded when `timeout_s` passed before they had all been taken.
        """
        self.admit(len(rows))
        return await self.answer(self.enqueue(rows, timeout_s=timeout_s))

    def enqueue(self, rows: Sequence[R], *, timeout_s: float) -> Submission[A]:
        """Queue rows that were admitted just now; whoever does must `answer` or `abandon` the submission."""
        now = self._clock()
        submission: Submission[A] = Submission(
            future=asyncio.get_running_loop().create_future(),
            submitted=now,
            deadline=now + timeout_s,
            outcomes=[None] * len(rows),
            left=len(rows),
        )
        self._queue.extend(_Waiting(row, self._size(row), i, submission) for i, row in enumerate(rows))
        self._observer.queued(len(self._queue))
        self._idle.clear()
        self._filled.set()
        return submission

    async def answer(self, submission: Submission[A]) -> Served[A]:
        """Wait for the outcomes. Raises: DeadlineExceeded."""
        await submission.future
        return Served(submission.outcomes, self._timing(submission))

    def admit(self, rows: int) -> None:
        """Check that so many more rows would be taken.

        Raises: Overloaded when they do not all fit in the queue; Draining and NotReady when no worker will take them.
        """
        if self.draining:
            raise Draining("the service is shutting down; another replica can take this", retry_after_ms=1000)
        if not self.alive:
            raise NotReady("the worker of this model has stopped", retry_after_ms=1000)
        if len(self._queue) + rows > self._queue_rows:
            wait_ms = max(1, math.ceil(1000 * self._seconds_per_row * len(self._queue)))
            raise Overloaded(
                f"{len(self._queue)} rows wait already and {rows} more do not fit",
                limit=self._queue_rows,
                retry_after_ms=wait_ms,
            )

    def _timing(self, submission: Submission[A]) -> Timing:
        return Timing(
            queue_s=submission.started - submission.submitted,
            run_s=self._clock() - submission.started,
            rows=len(submission.outcomes),
            cells=submission.cells,
            padded_cells=submission.padded_cells,
            batch_rows=submission.batch_rows,
        )

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._queue:
                self._idle.set()
            await self._filled.wait()
            batch = self._running = self._take()
            if not batch:
                continue
            started = self._clock()
            rows = [entry.row for entry in batch]
            try:
                answers = await loop.run_in_executor(self._thread, self._run, rows)
                if len(answers) != len(rows):
                    raise RuntimeError(f"{len(answers)} answers came back for {len(rows)} rows")
            except Exception:  # whatever a run raises is the answer of its rows; the loop goes on
                log.exception("%s: a run of %d rows failed", self._name, len(rows))
                answers = [InternalError("the model failed on this input; the log has the cause") for _ in rows]
            self._deliver(batch, answers, started)
            self._running = []

    def _take(self) -> list[_Waiting[R]]:
        """Choose the next batch: the row that waited longest, and those nearest to it in size."""
        now = self._clock()
        for entry in self._queue:
            if now > entry.submission.deadline and not entry.submission.future.done():
                waited_ms = round(1000 * (now - entry.submission.submitted))
                entry.submission.future.set_exception(
                    DeadlineExceeded(f"not run within the deadline: waited {waited_ms} ms", retry_after_ms=waited_ms)
                )
        self._queue = [entry for entry in self._queue if not entry.submission.future.done()]
        batch: list[_Waiting[R]] = []
        if self._queue:
            oldest, longest = self._queue[0], 0
            for entry in sorted(self._queue, key=lambda waiting: abs(waiting.size - oldest.size)):
                longest = max(longest, entry.size)
                too_much = (len(batch) + 1) * longest > self._batch_cells
                if batch and (too_much or (self._same_size and entry.size != oldest.size)):
                    break
                batch.append(entry)
            taken = {id(entry) for entry in batch}
            self._queue = [entry for entry in self._queue if id(entry) not in taken]
        if not self._queue:
            self._filled.clear()
        self._observer.queued(len(self._queue))
        for entry in batch:
            entry.submission.started = min(entry.submission.started, now)
        return batch

    def _deliver(self, batch: list[_Waiting[R]], answers: Sequence[A | Exception], started: float) -> None:
        run_s = self._clock() - started
        longest = max(entry.size for entry in batch)
        per_row = run_s / len(batch)
        self._seconds_per_row += (SMOOTHING if self._seconds_per_row else 1.0) * (per_row - self._seconds_per_row)
        self._observer.ran(len(batch), sum(entry.size for entry in batch), len(batch) * longest, run_s)
        for entry, answer in zip(batch, answers, strict=True):
            submission = entry.submission
            submission.outcomes[entry.index] = answer
            submission.left -= 1
            submission.cells += entry.size
            submission.padded_cells += longest
            submission.batch_rows = max(submission.batch_rows, len(batch))
            if submission.left == 0 and not submission.future.done():
                self._observer.waited(submission.started - submission.submitted)
                submission.future.set_result(None)

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        if not worker.cancelled() and worker.exception() is not None:
            log.critical("%s: the worker died", self._name, exc_info=worker.exception())
        for entry in [*self._running, *self._queue]:
            if not entry.submission.future.done():
                entry.submission.future.set_exception(InternalError("the worker of this model stopped"))
        self._running, self._queue = [], []
