"""Room for rows: refused at once where they do not fit or would wait too long, or waited for in turn."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import Admission
from service.batching.backlog import Stay
from service.errors import Draining, NotReady, Overloaded

pytestmark = pytest.mark.anyio

LONG_S = 1e6  # no wait is longer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def room_for(max_rows: int, *, row_s: float = 0.0, max_wait_s: float = LONG_S, clock: Clock | None = None) -> Admission:
    """Open an admission whose pace is `row_s`, or unknown."""
    admission = Admission(max_rows=max_rows, max_wait_s=max_wait_s, clock=clock or Clock())
    admission.open()
    if row_s:
        admission.pace.ran(1, row_s, waited=True)
    return admission


def release(admission: Admission, stay: Stay, rows: int = 1) -> None:
    admission.release(repeat(stay, rows))


class Hall:
    """An admission, the names of those who waited and were let in, and what is held, a stay for each row."""

    def __init__(self, max_rows: int, *, full: bool = True) -> None:
        self.admission = room_for(max_rows)
        self.entered: list[str] = []
        self.stays = [self.admission.take(1, "anna") for _ in range(max_rows)] if full else []

    async def enter(self, name: str, tenant: str = "anna") -> None:
        """Wait for room, take it and keep it."""
        await self.admission.wait(tenant, timeout_s=1000)
        self.stays.append(self.admission.take(1, tenant))
        self.entered.append(name)

    def release(self, rows: int) -> None:
        freed, self.stays = self.stays[:rows], self.stays[rows:]
        self.admission.release(freed)


async def settle() -> None:
    """Let every task go as far as it can: each waits for room once more, at most, after it was called."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_rows_that_do_not_all_fit_are_refused_with_the_limit_and_the_time_until_they_will() -> None:
    admission = room_for(3, row_s=0.5)
    held = admission.take(2, "anna")
    with pytest.raises(Overloaded, match="2 rows wait or run already and 2 more do not fit") as refused:
        admission.take(2, "anna")
    assert (refused.value.limit, refused.value.retry_after_ms) == (3, 500)
    admission.take(1, "anna")
    release(admission, held, 2)
    admission.take(2, "anna")
    assert admission.rows == 3


def test_a_request_that_would_wait_too_long_is_refused_and_told_when_it_would_not() -> None:
    admission = room_for(1000, row_s=0.125, max_wait_s=1.0)
    for _ in range(9):
        admission.take(1, "anna")  # the last waits for eight rows, which is one second
    with pytest.raises(Overloaded, match="a row would wait 1125 ms for its run; at most 1000 here") as refused:
        admission.take(1, "anna")
    assert (refused.value.limit, refused.value.retry_after_ms) == (1000, 125)


def test_a_request_that_would_wait_past_its_own_deadline_is_refused() -> None:
    admission = room_for(1000, row_s=0.125, max_wait_s=1.0)
    held = [admission.take(1, "anna") for _ in range(5)]
    with pytest.raises(Overloaded) as refused:
        admission.take(1, "anna", timeout_s=0.5)
    assert (refused.value.limit, refused.value.retry_after_ms) == (500, 125)
    release(admission, held[0])
    admission.take(1, "anna", timeout_s=0.5)


def test_no_wait_is_too_long_before_the_pace_is_known() -> None:
    admission = room_for(1000, max_wait_s=0.001)
    admission.take(1, "anna")
    admission.take(999, "anna", timeout_s=0.0)
    with pytest.raises(Overloaded):
        admission.take(1, "anna")


def test_its_own_rows_make_no_request_wait() -> None:
    admission = room_for(1000, row_s=0.1, max_wait_s=1.0)
    admission.take(1000, "anna", timeout_s=0.5)


def test_the_rows_of_a_large_request_make_others_wait_only_as_they_become_due() -> None:
    clock = Clock()
    admission = room_for(1000, row_s=0.125, max_wait_s=1.0, clock=clock)
    large = admission.take(500, "anna")
    assert admission.wait_ms("anna") == 125  # for the first
    admission.take(1, "anna")
    clock.now = 0.75  # none was run meanwhile: seven are due, and the single one
    assert admission.wait_ms("anna") == 1000
    admission.take(1, "anna")
    with pytest.raises(Overloaded):
        admission.take(1, "anna")
    release(admission, large, 6)
    assert admission.wait_ms("anna") == 375
    clock.now = 100.0
    assert admission.wait_ms("anna") == 62_000  # for all 496


def test_a_large_request_that_left_hides_no_rows_of_others() -> None:
    admission = room_for(1000, row_s=0.125)
    left = admission.take(500, "anna")
    for _ in range(20):
        admission.take(1, "anna")
    release(admission, left, 500)
    assert admission.wait_ms("anna") == 2500


def test_one_tenant_has_all_the_room_and_several_have_equal_shares() -> None:
    admission = room_for(10)
    stays = [admission.take(1, "anna") for _ in range(10)]
    for _ in range(5):
        admission.take(1, "berta")
    with pytest.raises(Overloaded):
        admission.take(1, "berta")
    for stay in stays[:5]:
        release(admission, stay)
        with pytest.raises(Overloaded):
            admission.take(1, "anna")  # down to her share first
    release(admission, stays[5])
    admission.take(1, "anna")
    assert admission.rows == 10


def test_a_tenant_that_holds_nothing_is_let_in_with_a_request_larger_than_its_share() -> None:
    admission = room_for(10)
    for _ in range(10):
        admission.take(1, "anna")
    admission.take(8, "berta")
    with pytest.raises(Overloaded):
        admission.take(1, "berta")


def test_the_flood_of_one_tenant_makes_no_other_wait_too_long() -> None:
    admission = room_for(1000, row_s=0.125, max_wait_s=1.0)
    for _ in range(9):
        admission.take(1, "anna")
    with pytest.raises(Overloaded):
        admission.take(1, "anna")
    for _ in range(5):  # in turns: the last waits for four of hers, and as many of the other's
        admission.take(1, "berta")
    with pytest.raises(Overloaded):
        admission.take(1, "berta")


def test_a_tenant_is_told_when_its_own_share_has_room() -> None:
    admission = room_for(4, row_s=0.5)
    for _ in range(4):
        admission.take(1, "anna")
    admission.take(2, "berta")
    with pytest.raises(Overloaded) as refused:
        admission.take(1, "berta")  # one of hers must go, in turns with those of the other
    assert refused.value.retry_after_ms == 1000
    with pytest.raises(Overloaded) as refused:
        admission.take(1, "anna")  # there is room for all when three have gone, sooner than three of hers
    assert refused.value.retry_after_ms == 1500


def test_rows_on_their_way_count_for_those_behind_them() -> None:
    admission = room_for(10, row_s=0.125, max_wait_s=1.0)
    held = [admission.take(1, "anna") for _ in range(6)]
    admission.check(1, "anna", ahead=2)
    with pytest.raises(Overloaded, match="would wait 1125 ms"):
        admission.check(1, "anna", ahead=3)
    admission.release(held)
    admission.check(2, "anna", ahead=8)
    with pytest.raises(Overloaded, match="do not fit"):
        admission.check(2, "anna", ahead=9)


def test_no_rows_are_let_in_however_full_it_is() -> None:
    admission = room_for(1, row_s=10.0, max_wait_s=1.0)
    admission.take(1, "anna")
    admission.check(0, "anna")


def test_nobody_is_let_in_before_it_opens_or_after_it_closes() -> None:
    admission = Admission(max_rows=3, max_wait_s=LONG_S, clock=Clock())
    with pytest.raises(NotReady):
        admission.check(0, "anna")
    admission.open()
    admission.check(0, "anna")
    admission.close(lambda: Draining("the end"))
    with pytest.raises(Draining, match="the end"):
        admission.check(0, "anna")


async def test_who_finds_room_does_not_wait() -> None:
    assert 0 < await room_for(1).wait("anna", timeout_s=10) <= 10


async def test_those_who_wait_are_let_in_in_turn_and_one_who_leaves_is_passed_over() -> None:
    hall = Hall(1)
    tasks = {name: asyncio.create_task(hall.enter(name)) for name in "abcd"}
    await settle()
    tasks["b"].cancel()
    for number in range(3):
        hall.release(1)
        await settle()
        assert hall.entered == list("acd"[: number + 1])


async def test_one_who_leaves_just_when_called_passes_the_room_on() -> None:
    hall = Hall(1)
    leaver, other = (asyncio.create_task(hall.enter(name)) for name in "ab")
    await settle()
    hall.release(1)
    leaver.cancel()
    await other
    assert hall.entered == ["b"]


async def test_those_whose_room_was_taken_by_others_keep_their_turn() -> None:
    hall = Hall(2)
    tasks = [asyncio.create_task(hall.enter(name)) for name in "abc"]
    await settle()
    hall.release(2)
    hall.stays = [hall.admission.take(1, "anna") for _ in range(2)]  # before `a` and `b`, who were called, can
    await settle()
    assert hall.entered == []
    for number in range(3):
        hall.release(1)
        await settle()
        assert hall.entered == list("abc"[: number + 1])
    await asyncio.gather(*tasks)


async def test_who_waits_for_room_for_several_rows_is_let_in_when_all_of_them_fit() -> None:
    admission = room_for(4)
    stay = admission.take(3, "anna")
    waiting = asyncio.create_task(admission.wait("anna", rows=3, timeout_s=1000))
    await settle()
    release(admission, stay)
    await settle()
    assert not waiting.done()
    release(admission, stay)
    await waiting
    admission.check(3, "anna")


async def test_room_that_does_not_come_in_time_is_a_refusal() -> None:
    hall = Hall(1)
    with pytest.raises(Overloaded):
        await hall.admission.wait("anna", timeout_s=0.01)
    hall.release(1)
    await hall.admission.wait("anna", timeout_s=0)


async def test_closing_refuses_all_who_wait_for_room() -> None:
    hall = Hall(1)
    tasks = [asyncio.create_task(hall.enter(name)) for name in "ab"]
    await settle()
    hall.admission.close(lambda: Draining("the end"))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Draining, Draining]


@given(max_rows=st.integers(1, 4), leave=st.lists(st.booleans(), max_size=20), released=st.integers(1, 4))
def test_everybody_who_stays_is_let_in_in_turn_and_never_too_many(
    max_rows: int, leave: list[bool], released: int
) -> None:
    async def scenario() -> None:
        hall = Hall(max_rows)
        tasks = [asyncio.create_task(hall.enter(str(number))) for number in range(len(leave))]
        await settle()
        for task, leaves in zip(tasks, leave, strict=True):
            if leaves:
                task.cancel()
        stay = [str(number) for number, leaves in enumerate(leave) if not leaves]
        while len(hall.entered) < len(stay):
            before = len(hall.entered)
            hall.release(released)
            await settle()
            assert hall.admission.rows <= max_rows
            assert len(hall.entered) > before
        assert hall.entered == stay

    asyncio.run(scenario())


async def test_a_clock_that_wakes_a_caller_early_costs_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event loops round: a timer may fire before its time, and its caller then waits once more, in its turn."""
    hall = Hall(1)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "call_at", lambda when, wake, *args: loop.call_soon(wake, *args))
    waiting = asyncio.create_task(hall.enter("early"))
    await settle()
    monkeypatch.undo()
    await settle()
    assert not waiting.done()
    hall.release(1)
    await waiting
    assert hall.entered == ["early"]


async def test_those_who_wait_are_let_in_when_the_wait_in_the_queue_is_short_enough() -> None:
    hall = Hall(1000, full=False)
    hall.admission = room_for(1000, row_s=0.125, max_wait_s=1.0)
    hall.stays = [hall.admission.take(1, "anna") for _ in range(9)]
    tasks = [asyncio.create_task(hall.enter(name)) for name in "abc"]
    await settle()
    assert hall.entered == []
    hall.release(2)
    await settle()
    assert hall.entered == ["a", "b"]
    hall.release(1)
    await asyncio.gather(*tasks)


async def test_those_of_one_tenant_who_wait_keep_no_other_waiting() -> None:
    hall = Hall(4)
    floods = [asyncio.create_task(hall.enter(f"anna {number}")) for number in range(5)]
    await settle()
    others = [asyncio.create_task(hall.enter(f"berta {number}", "berta")) for number in range(3)]
    await settle()
    assert hall.entered == ["berta 0", "berta 1"]
    hall.release(3)  # of the first tenant's, which is down to one
    await settle()
    assert hall.entered == ["berta 0", "berta 1", "anna 0"]
    hall.release(2)
    await settle()
    assert sorted(hall.entered[3:]) == ["anna 1", "anna 2", "berta 2"]  # who is below its share is not left out
    for task in (*floods, *others):
        task.cancel()
    await asyncio.gather(*floods, *others, return_exceptions=True)
