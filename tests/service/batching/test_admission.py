"""Room for rows: refused at once where they do not fit, or waited for in turn."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import Admission
from service.errors import Draining, NotReady, Overloaded

pytestmark = pytest.mark.anyio


def room_for(max_rows: int) -> Admission:
    admission = Admission(max_rows=max_rows)
    admission.open()
    return admission


async def enter(admission: Admission, entered: list[str], name: str) -> None:
    """Wait for room, take it and keep it."""
    await admission.wait(timeout_s=1000)
    admission.take(1)
    entered.append(name)


async def settle() -> None:
    """Let every task go as far as it can: each waits for room once more, at most, after it was called."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_rows_that_do_not_all_fit_are_refused_with_the_limit_and_the_time_that_those_held_take() -> None:
    admission = room_for(3)
    admission.keep_pace(0.5)
    admission.take(2)
    with pytest.raises(Overloaded, match="2 rows wait or run already and 2 more do not fit") as refused:
        admission.take(2)
    assert (refused.value.limit, refused.value.retry_after_ms) == (3, 1000)
    admission.take(1)
    admission.release(2)
    admission.take(2)
    assert admission.rows == 3


def test_the_pace_follows_the_runs_and_no_run_alone_decides_it() -> None:
    admission = room_for(1)
    admission.keep_pace(1.0)
    assert admission.pace_s == 1.0
    admission.keep_pace(2.0)
    assert 1.0 < admission.pace_s < 1.5
    for _ in range(100):
        admission.keep_pace(2.0)
    assert admission.pace_s == pytest.approx(2.0)


def test_nobody_is_let_in_before_it_opens_or_after_it_closes() -> None:
    admission = Admission(max_rows=3)
    with pytest.raises(NotReady):
        admission.check(0)
    admission.open()
    admission.check(0)
    admission.close(lambda: Draining("the end"))
    with pytest.raises(Draining, match="the end"):
        admission.check(0)


async def test_who_finds_room_does_not_wait() -> None:
    admission = room_for(1)
    assert 0 < await admission.wait(timeout_s=10) <= 10


async def test_those_who_wait_are_let_in_in_turn_and_one_who_leaves_is_passed_over() -> None:
    admission, entered = room_for(1), list[str]()
    admission.take(1)
    tasks = {name: asyncio.create_task(enter(admission, entered, name)) for name in "abcd"}
    await settle()
    tasks["b"].cancel()
    for number in range(3):
        admission.release(1)
        await settle()
        assert entered == list("acd"[: number + 1])


async def test_one_who_leaves_just_when_called_passes_the_room_on() -> None:
    admission, entered = room_for(1), list[str]()
    admission.take(1)
    leaver, other = (asyncio.create_task(enter(admission, entered, name)) for name in "ab")
    await settle()
    admission.release(1)
    leaver.cancel()
    await other
    assert entered == ["b"]


async def test_those_whose_room_was_taken_by_others_keep_their_turn() -> None:
    admission, entered = room_for(2), list[str]()
    admission.take(2)
    tasks = [asyncio.create_task(enter(admission, entered, name)) for name in "abc"]
    await settle()
    admission.release(2)
    admission.take(2)  # before `a` and `b`, who were called, can
    await settle()
    assert entered == []
    for number in range(3):
        admission.release(1)
        await settle()
        assert entered == list("abc"[: number + 1])
    await asyncio.gather(*tasks)


async def test_room_that_does_not_come_in_time_is_a_refusal() -> None:
    admission = room_for(1)
    admission.take(1)
    with pytest.raises(Overloaded):
        await admission.wait(timeout_s=0.01)
    admission.release(1)
    await admission.wait(timeout_s=0)


async def test_closing_refuses_all_who_wait_for_room() -> None:
    admission, entered = room_for(1), list[str]()
    admission.take(1)
    tasks = [asyncio.create_task(enter(admission, entered, name)) for name in "ab"]
    await settle()
    admission.close(lambda: Draining("the end"))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Draining, Draining]


@given(max_rows=st.integers(1, 4), leave=st.lists(st.booleans(), max_size=20), released=st.integers(1, 4))
def test_everybody_who_stays_is_let_in_in_turn_and_never_too_many(
    max_rows: int, leave: list[bool], released: int
) -> None:
    async def scenario() -> None:
        admission, entered = room_for(max_rows), list[str]()
        admission.take(max_rows)
        tasks = [asyncio.create_task(enter(admission, entered, str(number))) for number in range(len(leave))]
        await settle()
        for task, leaves in zip(tasks, leave, strict=True):
            if leaves:
                task.cancel()
        stay = [str(number) for number, leaves in enumerate(leave) if not leaves]
        while len(entered) < len(stay):
            before = len(entered)
            admission.release(min(released, admission.rows))
            await settle()
            assert admission.rows <= max_rows
            assert len(entered) > before
        assert entered == stay

    asyncio.run(scenario())


async def test_a_clock_that_wakes_a_caller_early_costs_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event loops round: a timer may fire before its time, and its caller then waits once more, in its turn."""
    admission, entered = room_for(1), list[str]()
    admission.take(1)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_at", lambda when, wake, *args: loop.call_soon(wake, *args))
    waiting = asyncio.create_task(enter(admission, entered, "early"))
    await settle()
    monkeypatch.undo()
    await settle()
    assert not waiting.done()
    admission.release(1)
    await waiting
    assert entered == ["early"]
