"""The batcher's promises, with plain numbers as rows: size is the number, a run doubles it."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from service.batching.batcher import Batcher
from service.batching.submission import Served
from service.errors import DeadlineExceeded, Draining, EmptyInput, InternalError, ModelFailed, NotReady, Overloaded

pytestmark = pytest.mark.anyio


class Silent:
    def queued(self, rows: int) -> None: ...
    def answered(self, queue_s: float, run_s: float, *, failed: bool) -> None: ...
    def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None: ...


class Queued(Silent):
    """Keeps how many rows wait or run, as the batcher tells."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def queued(self, rows: int) -> None:
        self.now, self.most = rows, max(rows, self.most)


class Gate:
    """A run that waits until it is let go, so that tests decide what queues meanwhile."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, rows: list[int]) -> Sequence[int]:
        self.batches.append(rows)
        self.entered.release()
        self.open.acquire()
        return [2 * row for row in rows]

    async def wait_entered(self) -> None:
        await asyncio.to_thread(self.entered.acquire)

    def let_go(self, runs: int) -> None:
        for _ in range(runs):
            self.open.release()


def make(run: Callable[[list[int]], Sequence[int]], **options: object) -> Batcher[int, int]:
    settings = {"batch_cells": 100, "queue_rows": 1000, "max_wait_s": 1000.0, "observer": Silent(), **options}
    settings.setdefault("prepare", lambda rows: rows)
    batcher: Batcher[int, int] = Batcher(run, **settings)  # type: ignore[arg-type]
    batcher.start()
    return batcher


async def submit(
    batcher: Batcher[int, int], rows: Sequence[int], timeout_s: float = 10, tenant: str = "anna"
) -> Served[int]:
    with batcher.submit(rows, tenant=tenant, timeout_s=timeout_s) as answer:
        return await answer


async def handed_over() -> None:
    """Let the tasks made just now submit, and the batcher give its threads what they did: each a turn of the loop."""
    for _ in range(2):
        await asyncio.sleep(0)


def double(rows: list[int]) -> list[int]:
    return [2 * row for row in rows]


async def test_rows_come_back_in_order_whatever_order_they_ran_in() -> None:
    batcher = make(double, batch_cells=10)
    served = await submit(batcher, [7, 1, 9, 2, 3])
    assert served.outcomes == [14, 2, 18, 4, 6]
    await batcher.drain()


async def test_what_queues_during_a_run_is_the_next_batch() -> None:
    gate = Gate()
    batcher = make(gate.run)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    later = [asyncio.create_task(submit(batcher, [n])) for n in (2, 3, 4)]
    await handed_over()
    gate.let_go(2)
    assert [(await task).outcomes for task in (first, *later)] == [[2], [4], [6], [8]]
    assert gate.batches == [[1], [2, 3, 4]]
    await batcher.drain()


async def test_a_batch_stays_within_its_padded_cells_and_takes_like_lengths_together() -> None:
    gate = Gate()
    batcher = make(gate.run, batch_cells=60)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    rest = asyncio.create_task(submit(batcher, [20, 3, 19, 4, 300, 18]))
    await handed_over()
    gate.let_go(10)
    await asyncio.gather(first, rest)
    assert [sorted(batch) for batch in gate.batches] == [[1], [18, 19, 20], [3, 4], [300]]
    await batcher.drain()


async def test_rows_of_unequal_size_never_share_a_run_when_they_may_not() -> None:
    gate = Gate()
    batcher = make(gate.run, same_size=True)
    gate.let_go(10)
    await submit(batcher, [3, 5, 3, 5, 5])
    assert all(len(set(batch)) == 1 for batch in gate.batches)
    await batcher.drain()


async def test_a_cancelled_caller_strands_nobody_and_is_never_run() -> None:
    gate = Gate()
    batcher = make(gate.run)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    before, leaver, after = (asyncio.create_task(submit(batcher, [n])) for n in (2, 3, 4))
    await handed_over()
    leaver.cancel()
    gate.let_go(2)
    assert [(await task).outcomes for task in (first, before, after)] == [[2], [4], [8]]
    assert gate.batches == [[1], [2, 4]]
    await batcher.drain()


async def test_a_caller_cancelled_while_its_row_runs_strands_nobody() -> None:
    gate = Gate()
    batcher = make(gate.run)
    leaver = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    leaver.cancel()
    other = asyncio.create_task(submit(batcher, [2]))
    await handed_over()
    gate.let_go(2)
    assert (await other).outcomes == [4]
    await batcher.drain()


async def test_a_full_queue_refuses_all_rows_of_a_request_and_says_when_to_return() -> None:
    gate = Gate()
    batcher = make(gate.run, queue_rows=3)
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    waiting = asyncio.create_task(submit(batcher, [1, 2]))
    await handed_over()
    with pytest.raises(Overloaded) as refused:
        await submit(batcher, [3, 4])
    assert refused.value.retry_after_ms is not None
    assert refused.value.limit == 3
    gate.let_go(2)
    assert (await waiting).outcomes == [2, 4]
    await running
    assert gate.batches == [[1], [1, 2]]
    await batcher.drain()


async def test_a_row_past_its_deadline_is_answered_so_during_a_run_and_never_run() -> None:
    gate = Gate()
    batcher = make(gate.run)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    late = asyncio.create_task(submit(batcher, [2, 2], timeout_s=0.01))
    patient = asyncio.create_task(submit(batcher, [3]))
    with pytest.raises(DeadlineExceeded):
        await late  # while the first run still goes on
    assert not first.done()
    gate.let_go(2)
    assert (await patient).outcomes == [6]
    await first
    assert gate.batches == [[1], [3]]
    await batcher.drain()


async def test_a_row_whose_run_began_in_time_is_answered_however_long_it_takes() -> None:
    gate = Gate()
    batcher = make(gate.run)
    running = asyncio.create_task(submit(batcher, [1], timeout_s=0.01))
    await gate.wait_entered()
    late = asyncio.create_task(submit(batcher, [2], timeout_s=0.02))  # due after the other
    with pytest.raises(DeadlineExceeded):
        await late
    gate.let_go(1)
    assert (await running).outcomes == [2]
    await batcher.drain()


async def test_a_refusal_says_when_there_will_be_room_at_the_measured_pace() -> None:
    gate, now = Gate(), [0.0]
    batcher = make(gate.run, queue_rows=3, clock=lambda: now[0])
    measured = asyncio.create_task(submit(batcher, [1, 1]))
    await gate.wait_entered()
    now[0] = 1.0
    gate.let_go(1)
    await measured  # two rows in one second
    tasks = [asyncio.create_task(submit(batcher, [1])) for _ in range(3)]
    await gate.wait_entered()
    with pytest.raises(Overloaded) as full:
        await submit(batcher, [1])
    assert (full.value.limit, full.value.retry_after_ms) == (3, 500)
    gate.let_go(3)
    await asyncio.gather(*tasks)
    await batcher.drain()


async def test_a_request_of_many_rows_lets_later_ones_between() -> None:
    gate, now = Gate(), [0.0]
    batcher = make(gate.run, batch_cells=40, clock=lambda: now[0])
    measured = asyncio.create_task(submit(batcher, [10], timeout_s=1000))
    await gate.wait_entered()
    now[0] = 1.0
    gate.let_go(1)
    await measured  # one row in one second
    large = asyncio.create_task(submit(batcher, [10] * 400, timeout_s=1000))
    await gate.wait_entered()
    now[0] = 5.0
    single = asyncio.create_task(submit(batcher, [9], timeout_s=1000))
    await handed_over()
    gate.let_go(3)
    assert (await single).outcomes == [18]
    assert [9 in batch for batch in gate.batches].index(True) <= 3  # behind the run under way and one more
    gate.let_go(200)
    assert (await large).outcomes == [20] * 400
    await batcher.drain()


async def test_two_threads_run_parts_of_one_request_at_a_time() -> None:
    gate, queued = Gate(), Queued()
    batcher = make(gate.run, batch_cells=40, threads=2, observer=queued)
    large = asyncio.create_task(submit(batcher, [10] * 80))
    await gate.wait_entered()
    await gate.wait_entered()
    assert [len(batch) for batch in gate.batches] == [4, 4]
    gate.let_go(20)
    served = await large
    assert served.outcomes == [20] * 80
    assert (served.timing.rows, served.timing.cells, served.timing.padded_cells) == (80, 800, 800)
    assert (queued.most, queued.now) == (80, 0)
    await batcher.drain()
    assert not batcher.alive


async def test_an_abandoned_batcher_answers_everybody_and_waits_for_no_run() -> None:
    gate = Gate()
    batcher = make(gate.run)
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    waiting = asyncio.create_task(submit(batcher, [2]))
    await handed_over()
    batcher.abandon(lambda: NotReady("fenced off"), lambda: ModelFailed("too long"))
    with pytest.raises(ModelFailed):
        await running
    for refused in (waiting, submit(batcher, [3])):
        with pytest.raises(NotReady):
            await refused
    await batcher.drain()
    gate.let_go(1)


async def test_drain_answers_what_one_thread_runs_when_the_other_has_ended() -> None:
    gate = Gate()
    batcher = make(gate.run, threads=2, name="drained")
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("drained")]
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    draining = asyncio.create_task(batcher.drain())
    ends = [asyncio.create_task(asyncio.to_thread(thread.join)) for thread in threads]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.01)  # lets the loop hear of it
    gate.let_go(1)
    assert (await running).outcomes == [2]
    await draining
    await asyncio.gather(*ends)


async def test_the_death_of_one_of_two_threads_answers_everyone() -> None:
    def run(rows: list[int]) -> list[int]:
        if rows == [13]:
            raise SystemExit
        return double(rows)

    batcher = make(run, threads=2, same_size=True)
    doomed, other = (asyncio.create_task(submit(batcher, [n])) for n in (13, 14))
    with pytest.raises(InternalError):
        await doomed
    await asyncio.wait({other})
    assert not batcher.alive
    with pytest.raises(NotReady):
        await submit(batcher, [1])
    await batcher.drain()


async def test_what_was_refused_abandoned_or_late_leaves_no_trace_in_the_count() -> None:
    gate, queued = Gate(), Queued()
    batcher = make(gate.run, observer=queued, prepare=lambda rows: [EmptyInput("no") if n == 0 else n for n in rows])
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    with batcher.submit([2, 2], tenant="anna", timeout_s=10):
        pass
    late = asyncio.create_task(submit(batcher, [3, 0, 3], timeout_s=0.01))
    with pytest.raises(DeadlineExceeded):
        await late
    leaver = asyncio.create_task(submit(batcher, [4]))
    await handed_over()
    leaver.cancel()
    mixed = asyncio.create_task(submit(batcher, [0, 5, 0]))
    gate.let_go(2)
    assert (await running).outcomes == [2]
    assert (await mixed).outcomes[1] == 10
    assert gate.batches == [[1], [5]]
    assert queued.now == 0
    await batcher.drain()


async def test_a_row_that_cannot_be_prepared_fails_alone_and_is_never_run() -> None:
    batches: list[list[int]] = []

    def run(rows: list[int]) -> list[int]:
        batches.append(rows)
        return double(rows)

    batcher = make(run, prepare=lambda rows: [EmptyInput("no") if row == 0 else row for row in rows])
    served = await submit(batcher, [1, 0, 2])
    assert [type(outcome) for outcome in served.outcomes] == [int, EmptyInput, int]
    assert [type(outcome) for outcome in (await submit(batcher, [0, 0])).outcomes] == [EmptyInput] * 2
    assert 0 not in [row for batch in batches for row in batch]
    await batcher.drain()


async def test_measuring_that_fails_fails_its_own_rows_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def prepare(rows: list[int]) -> list[int]:
        if 13 in rows:
            raise ArithmeticError("thirteen")
        return rows

    batcher = make(double, prepare=prepare)
    assert isinstance((await submit(batcher, [13])).outcomes[0], InternalError)
    assert (await submit(batcher, [1])).outcomes == [2]
    await batcher.drain()


@pytest.mark.parametrize("answers", [[], [1, 2, 3]])
async def test_a_run_with_the_wrong_number_of_answers_fails_its_own_rows_only(
    answers: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    batcher = make(lambda rows: answers if rows == [7, 7] else double(rows))
    (one, other) = (await submit(batcher, [7, 7])).outcomes
    assert isinstance(one, InternalError)
    assert isinstance(other, InternalError)
    assert "2 rows" in caplog.text
    assert (await submit(batcher, [1])).outcomes == [2]
    await batcher.drain()


async def test_a_failing_run_fails_its_own_rows_and_the_loop_goes_on() -> None:
    def run(rows: list[int]) -> list[int]:
        if 13 in rows:
            raise ArithmeticError("thirteen")
        return double(rows)

    batcher = make(run)
    assert isinstance((await submit(batcher, [13])).outcomes[0], InternalError)
    assert (await submit(batcher, [1])).outcomes == [2]
    assert batcher.alive
    await batcher.drain()


async def test_the_worker_s_death_is_visible_and_answers_everyone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Silent):
        def ran(self, rows: int, cells: int, padded_cells: int, run_s: float) -> None:
            raise RuntimeError("the observer broke")

    batcher = make(double, observer=Broken())
    with pytest.raises(InternalError):
        await submit(batcher, [1])
    assert not batcher.alive
    assert "the worker died" in caplog.text
    with pytest.raises(NotReady):
        await submit(batcher, [1])
    await batcher.drain()


async def test_the_observer_hears_of_every_answer_once_and_whether_it_failed() -> None:
    told: list[bool] = []

    class Listening(Silent):
        def answered(self, queue_s: float, run_s: float, *, failed: bool) -> None:
            assert min(queue_s, run_s) >= 0
            told.append(failed)

    def run(rows: list[int]) -> list[int | Exception]:
        return [row if row < 13 else InternalError("unlucky") for row in rows]

    batcher = make(run, observer=Listening())  # type: ignore[arg-type]
    await submit(batcher, [1, 2, 3])
    assert told == [False]
    await submit(batcher, [1, 13, 13])
    assert told == [False, True]
    with batcher.submit([1], tenant="anna", timeout_s=10):
        pass  # the caller leaves
    await batcher.drain()
    assert told == [False, True]


async def test_the_observer_hears_of_a_deadline_that_passed_as_a_failure() -> None:
    told: list[tuple[float, float, bool]] = []

    class Listening(Silent):
        def answered(self, queue_s: float, run_s: float, *, failed: bool) -> None:
            told.append((queue_s, run_s, failed))

    gate = Gate()
    batcher = make(gate.run, observer=Listening())
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    with pytest.raises(DeadlineExceeded):
        await submit(batcher, [2], timeout_s=0.01)
    assert told == [(pytest.approx(0.01), 0.0, True)]
    gate.let_go(1)
    await first
    assert [failed for _, _, failed in told] == [True, False]
    await batcher.drain()


@pytest.mark.parametrize("end", [lambda answer: answer.cancel(), lambda answer: answer.set_exception(EOFError())])
async def test_rows_whose_caller_ends_the_wait_for_its_answer_are_never_run(
    end: Callable[[asyncio.Future[Served[int]]], None],
) -> None:
    gate, queued = Gate(), Queued()
    batcher = make(gate.run, observer=queued)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    with batcher.submit([2], tenant="anna", timeout_s=10) as answer:
        await handed_over()
        end(answer)
        with pytest.raises((asyncio.CancelledError, EOFError)):
            await answer
    gate.let_go(1)
    await first
    await batcher.drain()
    assert gate.batches == [[1]]
    assert queued.now == 0


async def test_an_answer_that_nobody_looked_at_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    batcher = make(gate.run)
    first = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    with batcher.submit([2], tenant="anna", timeout_s=0.01) as answer:
        await asyncio.wait({answer})
    del answer
    gate.let_go(1)
    await first
    await batcher.drain()
    gc.collect()
    assert not caplog.text


async def test_a_request_to_two_batchers_is_admitted_by_both_or_run_by_neither() -> None:
    gate = Gate()
    roomy, narrow = make(gate.run), make(double, queue_rows=1)
    gate.let_go(1)
    with ExitStack() as stack:
        stack.enter_context(roomy.submit([1, 2], tenant="anna", timeout_s=10))
        with pytest.raises(Overloaded):
            narrow.submit([1, 2], tenant="anna", timeout_s=10)
    with ExitStack() as stack:
        answers = [stack.enter_context(batcher.submit([3], tenant="anna", timeout_s=10)) for batcher in (roomy, narrow)]
        assert [(await answer).outcomes for answer in answers] == [[6], [6]]
    assert gate.batches == [[3]]
    await roomy.drain()
    await narrow.drain()


async def test_drain_answers_what_was_queued_just_before() -> None:
    batcher = make(double)
    await submit(batcher, [1])
    last = asyncio.create_task(submit(batcher, [2]))
    await asyncio.sleep(0)
    await batcher.drain()
    assert (await last).outcomes == [4]


async def test_nothing_keeps_a_drained_batcher_alive() -> None:
    batcher = make(double)
    await submit(batcher, [1], timeout_s=1000)
    await batcher.drain()
    drained = weakref.ref(batcher)
    del batcher
    gc.collect()
    assert drained() is None


async def test_drain_waits_for_a_run_whose_caller_left() -> None:
    gate = Gate()
    batcher = make(gate.run)
    leaver = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    leaver.cancel()
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    gate.let_go(1)
    await draining


async def test_drain_answers_what_waits_and_refuses_what_comes() -> None:
    gate = Gate()
    batcher = make(gate.run)
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    waiting = asyncio.create_task(submit(batcher, [2]))
    await handed_over()
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await submit(batcher, [3])
    gate.let_go(2)
    assert [(await task).outcomes for task in (running, waiting)] == [[2], [4]]
    await draining
    assert not batcher.alive


async def wait_and_submit(batcher: Batcher[int, int], row: int) -> Sequence[object]:
    left_s = await batcher.wait_for_room("anna", timeout_s=10)
    return (await submit(batcher, [row], timeout_s=left_s)).outcomes


async def test_those_who_wait_for_room_are_let_in_in_turn_and_one_who_leaves_strands_nobody() -> None:
    gate, queued = Gate(), Queued()
    batcher = make(gate.run, queue_rows=1, observer=queued)
    tasks = [asyncio.create_task(wait_and_submit(batcher, row)) for row in range(1, 6)]
    await gate.wait_entered()
    tasks[1].cancel()
    gate.let_go(5)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(1), asyncio.CancelledError)
    assert answers == [[2], [6], [8], [10]]
    assert gate.batches == [[1], [3], [4], [5]]
    assert queued.most == 1
    await batcher.drain()


async def test_a_drained_batcher_says_why_in_the_words_it_was_given() -> None:
    batcher = make(double)
    await batcher.drain(lambda: NotReady("unloaded"))
    with pytest.raises(NotReady, match="unloaded"):
        await submit(batcher, [1])


async def test_drain_turns_away_those_who_wait_for_room() -> None:
    gate = Gate()
    batcher = make(gate.run, queue_rows=1)
    running = asyncio.create_task(submit(batcher, [1]))
    await gate.wait_entered()
    waiting = asyncio.create_task(wait_and_submit(batcher, 2))
    await asyncio.sleep(0)
    draining = asyncio.create_task(batcher.drain())
    with pytest.raises(Draining):
        await waiting
    gate.let_go(1)
    await asyncio.gather(running, draining)
