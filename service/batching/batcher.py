"""Rows from many callers, answered in shared runs.

There is no wait timer: rows that queue during a run are those that the next run chooses from, so load itself forms
batches. Each batcher has a few threads. One thread at a time prepares the new rows and chooses a run
(`service.batching.queue`), while the others run. The event loop admits rows (`service.batching.admission`), answers
them and keeps the deadlines (`service.batching.deadlines`). The batcher knows nothing of HTTP or ONNX: a row is
anything that can be prepared and has a size then, a run is any function of a list of rows.

Invariants: every admitted row is answered once, with its answer or an exception; all rows of a submission are admitted
or none; never more than `queue_rows` rows of a tenant wait or run; a row whose caller left, or whose deadline passed
before its run began, is never run; a run that fails fails its own rows and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from service.batching.admission import Admission
from service.batching.backlog import Stay
from service.batching.deadlines import Deadlines
from service.batching.queue import RowQueue
from service.batching.submission import QueuedRow, Served, Submission, Timing, note_start
from service.errors import DeadlineExceeded, Draining, InternalError, RequestError

log = logging.getLogger("baton.batching")

R = TypeVar("R")
A = TypeVar("A")
MAX_HANDED_OVER = 64  # submissions at once: under overload one turn of the event loop takes seconds


class Observer(Protocol):
    """What the batcher tells of its work, as it happens."""

    def queued(self, rows: int) -> None: ...
    def answered(self, queue_s: float, run_s: float, *, failed: bool) -> None: ...
    def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None: ...


def shutting_down() -> RequestError:
    """Return why an ending service takes no more."""
    return Draining("the service is shutting down; another replica can take this", retry_after_ms=1000)


class Batcher(Generic[R, A]):
    """One queue, and `threads` runs at a time.

    `prepare` and `run` are called on the batcher's own threads. `prepare` takes the new rows and returns the size of
    each, or why it cannot be run; one call at a time. `run` takes rows whose padded cells (rows times the longest) stay
    within `batch_cells`, or a single longer row. `draining` says that the end has begun, `alive` that threads work.
    """

    def __init__(
        self,
        run: Callable[[list[R]], Sequence[A | Exception]],
        *,
        prepare: Callable[[list[R]], Sequence[int | Exception]],
        batch_cells: int,
        queue_rows: int,
        max_wait_s: float,
        observer: Observer,
        threads: int = 1,
        same_size: bool = False,
        name: str = "batcher",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._prepare, self._clock, self._observer, self._name = run, prepare, clock, observer, name
        self._queue: RowQueue[QueuedRow[R, A]] = RowQueue(
            batch_cells=batch_cells,
            same_size=same_size,
            gone=lambda row: row.submission.future.done() or clock() > row.submission.deadline,
        )
        self._admission = Admission(max_rows=queue_rows, max_wait_s=max_wait_s, clock=clock)
        self._deadlines: Deadlines[Submission[R, A]] = Deadlines(self._expire, clock=clock)
        self._fresh: list[Submission[R, A]] = []
        self._inbox: SimpleQueue[list[Submission[R, A]] | None] = SimpleQueue()
        self.threads, self._ended_threads = threads, 0
        self._pool: list[threading.Thread] = []
        self._choosing = threading.Lock()  # one thread at a time looks at the queue; the others run
        self._claiming = threading.Lock()  # for `unstarted` and `closed` of submissions
        self._stopping = False
        self._stopped = asyncio.Event()
        self._stopped.set()
        self.draining = self.alive = False

    def calibrate(self, *, overhead_rows: float, overhead_cells: float) -> None:
        """Say what each step of a run costs besides its rows, and what a run costs besides its steps.

        The more, the more padding a shared run is worth. Units: a row's step, which is a cell.
        """
        self._queue.overhead_rows, self._queue.overhead_cells = overhead_rows, overhead_cells

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped.clear()
        self.alive = True
        self._admission.open()
        for number in range(self.threads):
            self._pool.append(threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True))
            self._pool[-1].start()

    async def drain(self, refusal: Callable[[], RequestError] = shutting_down) -> None:
        """Refuse new rows with what `refusal` makes, answer the queued ones, then stop."""
        self.draining = True
        self._admission.close(refusal)
        if self.alive:
            self._loop.call_soon(self._inbox.put, None)  # behind what was submitted just now
        await self._stopped.wait()
        self._deadlines.stop()
        for thread in self._pool:
            thread.join()  # nothing is left to do in it but to let go of what it held

    def abandon(self, refusal: Callable[[], RequestError], failure: Callable[[], RequestError]) -> None:
        """Refuse new rows and those that wait with what `refusal` makes, and those that run with what `failure` makes.

        A run may never end, so `drain` waits for none.
        """
        self._admission.close(refusal)
        self._pool.clear()
        self._stopped.set()
        self._fail_open(lambda submission: refusal() if submission.waits else failure())

    def submit(self, rows: Sequence[R], *, tenant: str, timeout_s: float) -> Submission[R, A]:
        """Admit and queue `rows`, at least one; `with` gives the future of their answer, and drops what has not run.

        The answer has an outcome for each row, an exception where its run failed. The future fails with
        DeadlineExceeded when `timeout_s` passed before all rows had started. The caller may cancel or fail it, and the
        rows are dropped. Rows never run when the caller leaves before the event loop's next turn, so a caller can
        submit to several batchers, to all or to none.

        Raises: what `check_room` raises; Overloaded also when, by the pace, `timeout_s` will pass before a run begins.
        """
        stay = self._admission.take(len(rows), tenant, timeout_s=timeout_s)
        now = self._clock()
        submission: Submission[R, A] = Submission(
            rows=rows,
            stay=stay,
            future=self._loop.create_future(),
            submitted=now,
            deadline=now + timeout_s,
            outcomes=[None] * len(rows),
            left=len(rows),
            unstarted=len(rows),
            close=self._close,
        )
        self._deadlines.add(submission)
        if not self._fresh:
            self._loop.call_soon(self._hand_over)
        elif len(self._fresh) == MAX_HANDED_OVER:
            self._hand_over()  # but not the newest: its caller may yet leave
        self._fresh.append(submission)
        return submission

    def check_room(self, rows: int, tenant: str, *, ahead: int = 0) -> None:
        """Check that so many more rows would be admitted, behind `ahead` of the tenant that are on their way.

        Raises: Overloaded when they do not all fit, or would wait too long; NotReady, or what `drain` was given, when
        no thread will take them.
        """
        self._admission.check(rows, tenant, ahead=ahead)

    async def wait_for_room(self, tenant: str, *, rows: int = 1, timeout_s: float) -> float:
        """Wait, first come, first served, until so many more rows would be admitted; return how much of `timeout_s` is
        left.

        Raises: what `check_room` raises; Overloaded only when there was no room within `timeout_s`.
        """
        return await self._admission.wait(tenant, rows=rows, timeout_s=timeout_s)

    def _hand_over(self) -> None:
        """Give the threads what came in one turn of the event loop: waking them costs, and more rows share a run."""
        self._inbox.put(self._fresh)
        self._fresh = []
        self._observer.queued(self._admission.rows)

    def _expire(self, submission: Submission[R, A]) -> None:
        timeout_ms = round(1000 * (submission.deadline - submission.submitted))
        message = f"not run within the deadline of {timeout_ms} ms"
        retry_after_ms = self._admission.wait_ms(submission.stay.tenant)
        submission.future.set_exception(DeadlineExceeded(message, retry_after_ms=retry_after_ms))
        self._tell(submission.timing(submission.deadline), failed=True)
        self._close(submission)

    def _close(self, submission: Submission[R, A]) -> None:
        """Drop the rows that have not started."""
        self._deadlines.discard(submission)
        with self._claiming:
            dropped = 0 if submission.closed else submission.unstarted
            submission.closed = True
        if dropped:
            self._release(repeat(submission.stay, dropped))

    def _release(self, stays: Iterable[Stay]) -> None:
        self._admission.release(stays)
        self._observer.queued(self._admission.rows)

    def _work(self) -> None:
        """Serve until told to stop; this and what it calls is all that happens on the batcher's threads."""
        death, free_since = None, -math.inf
        try:
            while batch := self._next():
                free_since = self._run_batch(batch, free_since)
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread must be seen
            death = error
            self._inbox.put(None)  # the others end as well
        self._loop.call_soon_threadsafe(self._ended, death)

    def _next(self) -> list[QueuedRow[R, A]]:
        """Wait for the next run; empty when told to stop and nothing is queued."""
        with self._choosing:
            while self._queue or not self._stopping:
                self._take_in()
                if batch := self._claim(self._queue.take()):
                    note_start(batch, self._clock())
                    return batch
        return []

    def _take_in(self) -> None:
        """Prepare the new rows and queue them; wait for some when none are queued."""
        came: list[Submission[R, A]] = []
        while not (self._stopping or self._queue or came) or not self._inbox.empty():
            fresh = self._inbox.get()
            if fresh is None:
                self._stopping = True
            else:
                came += [submission for submission in fresh if not submission.future.done()]
        if came:
            sizes = iter(self._attempt(self._prepare, [row for submission in came for row in submission.rows]))
            for submission in came:
                self._add(submission, [next(sizes) for _ in submission.rows])

    def _add(self, submission: Submission[R, A], sizes: list[int | Exception]) -> None:
        fit = [QueuedRow(submission, index, size) for index, size in enumerate(sizes) if isinstance(size, int)]
        tenant, pace_s = submission.stay.tenant, self._admission.pace.row_s
        self._queue.add(fit, now=submission.submitted, pace_s=pace_s, tenant=tenant)
        unfit = {QueuedRow(submission, index, 0): why for index, why in enumerate(sizes) if isinstance(why, Exception)}
        if unfit and self._claim(list(unfit)):
            self._loop.call_soon_threadsafe(self._deliver, list(unfit.items()))

    def _claim(self, rows: list[QueuedRow[R, A]]) -> list[QueuedRow[R, A]]:
        """Return those of `rows` that are still waited for; from here on they count until they are delivered."""
        with self._claiming:
            rows = [row for row in rows if not row.submission.closed]
            for row in rows:
                row.submission.unstarted -= 1
        return rows

    def _run_batch(self, batch: list[QueuedRow[R, A]], free_since: float) -> float:
        """Run the rows, and return when that ended; this thread has been free since its last run did."""
        began, waited = self._clock(), bool(self._queue)
        answers = self._attempt(self._run, [row.submission.rows[row.index] for row in batch])
        ended = self._clock()
        sizes = [row.size for row in batch]
        self._observer.ran(len(batch), sum(sizes), len(batch) * max(sizes), ended - began)
        outcomes = list(zip(batch, answers, strict=True))
        came = min(row.submission.submitted for row in batch)
        self._loop.call_soon_threadsafe(self._end_run, outcomes, ended - max(came, free_since), waited)
        return ended

    def _attempt(self, function: Callable[[list[R]], Sequence[Any]], rows: list[R]) -> Sequence[Any]:
        try:
            answers = function(rows)
            if len(answers) != len(rows):
                raise RuntimeError(f"{len(answers)} answers came back for {len(rows)} rows")
        except Exception:  # whatever a run raises is the answer of its rows; the thread goes on
            log.exception("%s: a run of %d rows failed", self._name, len(rows))
            return [InternalError("the model failed on this input; the log has the cause") for _ in rows]
        return answers

    def _end_run(self, outcomes: list[tuple[QueuedRow[R, A], Any]], busy_s: float, waited: bool) -> None:
        self._admission.pace.ran(len(outcomes), busy_s / self.threads, waited=waited)
        self._deliver(outcomes)

    def _deliver(self, outcomes: list[tuple[QueuedRow[R, A], Any]]) -> None:
        self._release(row.submission.stay for row, _ in outcomes)
        ended = self._clock()
        for row, outcome in outcomes:
            submission = row.submission
            submission.outcomes[row.index] = outcome
            submission.failed |= isinstance(outcome, Exception)
            submission.left -= 1
            if not submission.left and not submission.future.done():
                timing = submission.timing(ended)
                submission.future.set_result(Served(submission.outcomes, timing))
                self._tell(timing, failed=submission.failed)

    def _tell(self, timing: Timing, *, failed: bool) -> None:
        self._observer.answered(timing.queue_s, timing.run_s, failed=failed)

    def _ended(self, death: BaseException | None) -> None:
        self._ended_threads += 1
        all_ended = self._ended_threads == self.threads
        if all_ended:
            self._stopped.set()
        if death is not None:
            log.critical("%s: the worker died", self._name, exc_info=death)
        if death is not None or all_ended:
            self.alive = False
            if not self.draining:
                self._admission.close()
            self._fail_open(lambda _: InternalError("the worker of this model stopped"))

    def _fail_open(self, failure: Callable[[Submission[R, A]], RequestError]) -> None:
        for submission in self._deadlines.open:
            if not submission.future.done():
                submission.future.set_exception(failure(submission))
                self._tell(submission.timing(self._clock()), failed=True)
