"""Rows from many callers, answered in shared runs.

There is no wait timer: what queued while the last run ran is what the next one chooses from, so load itself forms
batches. Each batcher has a few threads, of which one at a time measures the rows that came and chooses a run
(`service.batching.queue`), while the others run; the event loop admits, answers and keeps the deadlines. It knows
nothing of HTTP or ONNX: a row is anything that can be measured, a run is any function of a list of rows.

Invariants: every submitted row is answered once, with its answer or an exception; all rows of a submission are
admitted or none; never more than `queue_rows` rows wait or run; a row whose caller left, or whose deadline passed
before its run began, is never run; a run that fails fails its own rows and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from service.batching.queue import RowQueue
from service.batching.submission import Served, Submission
from service.errors import DeadlineExceeded, Draining, InternalError, NotReady, Overloaded, RequestError

log = logging.getLogger("baton.batching")

R = TypeVar("R")
A = TypeVar("A")
HANDED_OVER = 64  # submissions at once, at most: under overload one turn of the event loop takes seconds
SMOOTHING = 0.2  # weight of the newest run in the measured seconds per row


class Observer(Protocol):
    """What the batcher tells of its work, as it happens."""

    def queued(self, rows: int) -> None: ...
    def waited(self, queue_s: float) -> None: ...
    def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None: ...


@dataclass(slots=True, eq=False)
class _Waiting(Generic[R]):
    submission: Submission[R]
    index: int
    size: int


def _shutting_down() -> RequestError:
    return Draining("the service is shutting down; another replica can take this", retry_after_ms=1000)


class Batcher(Generic[R, A]):
    """One queue, and `threads` runs at a time.

    `measure` and `run` are called on the batcher's own threads: `measure` with the rows that came, for the size of
    each, or why it cannot be run, one call at a time; `run` with rows whose padded cells (rows times the longest) stay
    within `batch_cells`, or with a single longer row. `draining` says that the end has begun.
    """

    def __init__(
        self,
        run: Callable[[list[R]], Sequence[A | Exception]],
        *,
        measure: Callable[[list[R]], Sequence[int | Exception]],
        batch_cells: int,
        queue_rows: int,
        observer: Observer,
        threads: int = 1,
        same_size: bool = False,
        name: str = "batcher",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._measure, self._clock, self._observer, self._name = run, measure, clock, observer, name
        self._waiting: RowQueue[_Waiting[R]] = RowQueue(
            batch_cells=batch_cells,
            same_size=same_size,
            gone=lambda waiting: waiting.submission.future.done() or clock() > waiting.submission.deadline,
        )
        self._queue_rows, self._queued = queue_rows, 0
        self._fresh: list[Submission[R]] = []
        self._inbox: SimpleQueue[list[Submission[R]] | None] = SimpleQueue()
        self._open: set[Submission[R]] = set()  # enqueued, and neither abandoned nor expired
        self._turned_away: deque[asyncio.Future[None]] = deque()  # who waits for room
        self._threads, self._ended_threads = threads, 0
        self._pool: list[threading.Thread] = []
        self._choosing = threading.Lock()  # one thread at a time looks at what waits; the others run
        self._counting = threading.Lock()  # for `_queued`, and for `unstarted` and `closed` of submissions
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf  # when the timer does
        self._stopping = False
        self._seconds_per_row = 0.0
        self._stopped = asyncio.Event()
        self._stopped.set()
        self.draining, self._refusal = False, _shutting_down
        self.alive = False

    def calibrate(self, *, overhead_rows: float, overhead_cells: float) -> None:
        """Say what each step of a run costs besides its rows, and what a run costs besides its steps.

        The more, the more padding a shared run is worth. Units: a row's step, which is a cell.
        """
        self._waiting.overhead_rows, self._waiting.overhead_cells = overhead_rows, overhead_cells

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped.clear()
        self.alive = True
        for number in range(self._threads):
            self._pool.append(threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True))
            self._pool[-1].start()

    async def drain(self, refusal: Callable[[], RequestError] = _shutting_down) -> None:
        """Refuse new rows with what `refusal` makes, answer the waiting ones, then stop."""
        self.draining, self._refusal = True, refusal
        self._tell_of_room()
        if self.alive:
            self._loop.call_soon(self._inbox.put, None)  # behind what was enqueued just now
        await self._stopped.wait()
        if self._timer is not None:
            self._timer.cancel()
        for thread in self._pool:
            thread.join()  # nothing is left to do in it but to let go of what it held

    async def submit(self, rows: Sequence[R], *, timeout_s: float) -> Served[A]:
        """Answer `rows`, at least one, in their order; an outcome may be an exception where a run failed.

        Raises: what `admit` raises; DeadlineExceeded when `timeout_s` passed before they had all been taken.
        """
        self.admit(len(rows))
        submission = self.enqueue(rows, timeout_s=timeout_s)
        try:
            return await self.answer(submission)
        finally:
            self.abandon(submission)

    def admit(self, rows: int) -> None:
        """Check that so many more rows would be taken.

        Raises: Overloaded when they do not all fit in the queue; NotReady, or what `drain` was given, when no worker
        will take them.
        """
        if self.draining:
            raise self._refusal()
        if not self.alive:
            raise NotReady("the worker of this model has stopped", retry_after_ms=1000)
        if self._queued + rows > self._queue_rows:
            message = f"{self._queued} rows wait or run already and {rows} more do not fit"
            raise Overloaded(message, limit=self._queue_rows, retry_after_ms=self._drained_ms())

    async def admit_in_time(self, rows: int, *, timeout_s: float) -> float:
        """Do as `admit` does, but wait for room; those who wait are let in first come, first served.

        Return how much of `timeout_s` is left.

        Raises: what `admit` raises; Overloaded when there was no room within `timeout_s`.
        """
        until = math.inf
        came_back = False
        while True:
            try:
                self.admit(rows)
                return until - self._loop.time() if came_back else timeout_s
            except Overloaded:
                until = min(until, self._loop.time() + timeout_s)
                if self._loop.time() >= until:
                    raise
            room = self._loop.create_future()
            (self._turned_away.appendleft if came_back else self._turned_away.append)(room)
            came_back = True
            timer = self._loop.call_at(until, _wake, room)
            try:
                await room
            except asyncio.CancelledError:
                self._tell_of_room()
                raise
            finally:
                timer.cancel()

    def enqueue(self, rows: Sequence[R], *, timeout_s: float) -> Submission[R]:
        """Queue rows that were admitted just now; whoever does must `abandon` the submission in the end."""
        now = self._clock()
        submission = Submission(
            rows=rows,
            future=self._loop.create_future(),
            submitted=now,
            deadline=now + timeout_s,
            outcomes=[None] * len(rows),
            left=len(rows),
            unstarted=len(rows),
        )
        self._open.add(submission)
        if submission.deadline < self._looks_at:
            self._look_at(submission.deadline, now)
        with self._counting:
            self._queued += len(rows)
        self._fresh.append(submission)
        if len(self._fresh) == HANDED_OVER:
            self._hand_over()
        elif len(self._fresh) == 1:
            self._loop.call_soon(self._hand_over)
        return submission

    async def answer(self, submission: Submission[R]) -> Served[A]:
        """Wait for the outcomes.

        Raises: DeadlineExceeded; CancelledError when the submission was abandoned meanwhile.
        """
        await submission.future
        timing = submission.timing
        self._observer.waited(timing.queue_s)
        return Served(submission.outcomes, timing)

    def abandon(self, submission: Submission[R]) -> None:
        """Drop what has not been run, if anything: nobody waits for it any more."""
        if not submission.future.cancel() and not submission.future.cancelled():
            submission.future.exception()  # seen, should nobody have waited for it
        self._close(submission)

    def _hand_over(self) -> None:
        """Give the threads what came in one turn of the event loop: waking them costs, and more rows share a run."""
        if self._fresh:
            self._inbox.put(self._fresh)
            self._fresh = []
            self._observer.queued(self._queued)

    def _look_at(self, deadline: float, now: float) -> None:
        """Look for late submissions when that deadline passes; one timer costs less than one for each of them."""
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = deadline
        self._timer = self._loop.call_later(deadline - now, self._expire)

    def _expire(self) -> None:
        """Answer those whose deadline has passed; where the last rows run, the answer is on its way."""
        now, self._looks_at = self._clock(), math.inf
        waiting = [one for one in self._open if one.unstarted and not one.future.done()]
        for submission in waiting:
            if submission.deadline <= now:
                timeout_s = submission.deadline - submission.submitted
                message = f"not run within the deadline of {round(1000 * timeout_s)} ms"
                submission.future.set_exception(DeadlineExceeded(message, retry_after_ms=self._drained_ms()))
                self._close(submission)
        later = [submission.deadline for submission in waiting if submission.deadline > now]
        if later:
            self._look_at(min(later), now)

    def _drained_ms(self) -> int:
        """Return how long the rows that wait or run now will take, at the measured pace."""
        return max(1, math.ceil(1000 * self._seconds_per_row * self._queued))

    def _close(self, submission: Submission[R]) -> None:
        if submission in self._open:
            self._open.discard(submission)
            with self._counting:
                submission.closed = True
                self._queued -= submission.unstarted
            if submission.unstarted:
                self._observer.queued(self._queued)
                self._tell_of_room()

    def _tell_of_room(self) -> None:
        """Let as many try again as there may be room for, or all, when there is nothing more to wait for."""
        room = self._queue_rows - self._queued if self.alive and not self.draining else len(self._turned_away)
        while self._turned_away and room > 0:
            waiting = self._turned_away.popleft()
            if not waiting.done():
                waiting.set_result(None)
                room -= 1

    def _work(self) -> None:
        """Serve until told to stop; this and what it calls is all that happens on the batcher's threads."""
        death = None
        try:
            while batch := self._next():
                self._run_batch(batch)
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread must be seen
            death = error
            self._inbox.put(None)  # the others end as well
        self._loop.call_soon_threadsafe(self._ended, death)

    def _next(self) -> list[_Waiting[R]]:
        """Wait for the next run; empty when told to stop and nothing waits."""
        with self._choosing:
            while self._waiting or not self._stopping:
                self._take_in()
                if batch := self._start(self._waiting.take()):
                    return batch
        return []

    def _take_in(self) -> None:
        """Measure the rows that came, waiting for some if none wait, and put them among the waiting."""
        came: list[Submission[R]] = []
        while not (self._stopping or self._waiting or came) or not self._inbox.empty():
            fresh = self._inbox.get()
            if fresh is None:
                self._stopping = True
            else:
                came += [submission for submission in fresh if not submission.future.done()]
        if came:
            sizes = iter(self._attempt(self._measure, [row for submission in came for row in submission.rows]))
            for submission in came:
                self._add(submission, [next(sizes) for _ in submission.rows])

    def _add(self, submission: Submission[R], sizes: list[int | Exception]) -> None:
        fit = [_Waiting(submission, index, size) for index, size in enumerate(sizes) if isinstance(size, int)]
        self._waiting.add(fit, now=submission.submitted, pace_s=self._seconds_per_row)
        unfit = [(submission, index, size) for index, size in enumerate(sizes) if isinstance(size, Exception)]
        if unfit:
            with self._counting:
                if not submission.closed:
                    submission.unstarted -= len(unfit)
                    self._queued -= len(unfit)
            self._loop.call_soon_threadsafe(self._deliver, unfit)

    def _start(self, batch: list[_Waiting[R]]) -> list[_Waiting[R]]:
        """Return the rows of `batch` that are still waited for; from here on they will be run, whatever happens."""
        with self._counting:
            batch = [waiting for waiting in batch if not waiting.submission.closed]
            for waiting in batch:
                waiting.submission.unstarted -= 1
        now, longest = self._clock(), max((waiting.size for waiting in batch), default=0)
        for waiting in batch:
            submission = waiting.submission
            submission.started = min(submission.started, now)
            submission.cells += waiting.size
            submission.padded_cells += longest
            submission.batch_rows = max(submission.batch_rows, len(batch))
        return batch

    def _run_batch(self, batch: list[_Waiting[R]]) -> None:
        began = self._clock()
        try:
            answers = self._attempt(self._run, [waiting.submission.rows[waiting.index] for waiting in batch])
        finally:
            with self._counting:
                self._queued -= len(batch)
        run_s = self._clock() - began
        sizes = [waiting.size for waiting in batch]
        self._observer.ran(len(batch), sum(sizes), len(batch) * max(sizes), run_s)
        outcomes = [(waiting.submission, waiting.index, answer) for waiting, answer in zip(batch, answers, strict=True)]
        self._loop.call_soon_threadsafe(self._keep_pace, run_s / len(batch) / self._threads)  # before who waits for it
        self._loop.call_soon_threadsafe(self._deliver, outcomes)

    def _keep_pace(self, seconds_per_row: float) -> None:
        weight = SMOOTHING if self._seconds_per_row else 1.0
        self._seconds_per_row += weight * (seconds_per_row - self._seconds_per_row)

    def _attempt(self, function: Callable[[list[R]], Sequence[Any]], rows: list[R]) -> Sequence[Any]:
        try:
            answers = function(rows)
            if len(answers) != len(rows):
                raise RuntimeError(f"{len(answers)} answers came back for {len(rows)} rows")
        except Exception:  # whatever a run raises is the answer of its rows; the thread goes on
            log.exception("%s: a run of %d rows failed", self._name, len(rows))
            return [InternalError("the model failed on this input; the log has the cause") for _ in rows]
        return answers

    def _deliver(self, outcomes: list[tuple[Submission[R], int, Any]]) -> None:
        ended = self._clock()
        for submission, index, outcome in outcomes:
            if submission.closed:
                continue
            submission.outcomes[index] = outcome
            submission.left -= 1
            if not submission.left and not submission.future.done():
                submission.ended = ended
                submission.future.set_result(None)
        self._observer.queued(self._queued)
        self._tell_of_room()

    def _ended(self, death: BaseException | None) -> None:
        self._ended_threads += 1
        all_ended = self._ended_threads == self._threads
        if all_ended:
            self._stopped.set()
        if death is not None:
            log.critical("%s: the worker died", self._name, exc_info=death)
        if death is not None or all_ended:
            self.alive = False
            for submission in list(self._open):
                if not submission.future.done():
                    submission.future.set_exception(InternalError("the worker of this model stopped"))
            self._tell_of_room()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
