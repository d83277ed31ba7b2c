"""Sequences by themselves: one order of steps whoever takes them, and no step from a state that is not the last one."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import tiny
from counting import TTL_S, Failed, Service, added, emptied, fail, serve
from here import Clock, load_here

from service.engine.engine import Engine
from service.engine.registry import Wanted
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    SequenceUnknown,
    StateModelGone,
    UnknownModel,
)
from service.settings import ENTRY_BYTES, Settings
from service.state.sequences import Advanced
from service.state.sessions import Point

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[Engine]:
    root = tmp_path_factory.mktemp("models")
    tiny.stepper(root)
    tiny.number_stepper(root)
    tiny.sentiment(root)
    return load_here(root)


@pytest.fixture(params=["memory", "embedded", "redis"])
async def service(
    request: pytest.FixtureRequest, engines: list[Engine], tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Service]:
    """A process with a store of each kind."""
    name = emptied(request.getfixturevalue("shared_redis")) if request.param == "redis" else request.param
    async with serve(engines, store=name, state_dir=tmp_path) as one:
        yield one


async def test_a_sequence_goes_on_from_where_its_last_step_led_until_its_end(service: Service) -> None:
    assert await service.advance(start=True) == Advanced(step=1, restarted=False)
    assert [await service.step() for _ in range(3)] == [2, 3, 4]
    assert await service.advance(end=True) == Advanced(step=5, restarted=False)
    assert not await service.knows()
    assert await service.advance(start=True) == Advanced(step=1, restarted=False)


async def test_a_start_discards_a_live_sequence_and_says_so(service: Service) -> None:
    ids = []

    async def note(before: Point) -> Point:
        ids.append(before.session_id)
        return added(before)

    await service.advance(start=True, take=note)
    await service.advance(take=note)
    assert await service.advance(start=True, take=note) == Advanced(step=1, restarted=True)
    assert await service.step(take=note) == 2
    assert (ids[0] == ids[1], ids[2] == ids[3], ids[0] == ids[2]) == (True, True, False)


async def test_a_start_that_is_the_end_too_leaves_nothing(service: Service) -> None:
    assert await service.advance(start=True, end=True) == Advanced(step=1, restarted=False)
    assert not await service.knows()
    await service.advance(start=True)
    assert await service.advance(start=True, end=True) == Advanced(step=1, restarted=True)
    assert not await service.knows()


async def test_a_step_that_fails_changes_nothing(service: Service) -> None:
    for how in ({"start": True}, {"start": True, "end": True}):
        with pytest.raises(Failed):
            await service.advance(take=fail, **how)
    assert not await service.knows()
    await service.advance(start=True)
    for how in ({}, {"start": True}, {"end": True}):
        with pytest.raises(Failed):
            await service.advance(take=fail, **how)
    assert await service.step() == 2


async def test_tenants_models_and_ids_are_told_apart(service: Service) -> None:
    """As numbers and texts, and however they would read one after the other."""
    texts = ["5", "", "\0", "stepper", '"', '", "', '5"', "\ud800", "é", "e\u0301"]
    triples = list(itertools.product(["", "t", 't", "stepper'], ["stepper", "numbers"], [5, -5, 2**70, *texts]))
    for tenant, model, id in triples:
        assert not await service.knows(id, tenant=tenant, model=model)
        await service.advance(id, tenant=tenant, model=model, start=True)
    for tenant, model, id in triples:
        assert await service.step(id, tenant=tenant, model=model) == 2


@pytest.mark.parametrize("id", [7, "seven", "7" * 1000])
async def test_an_unknown_sequence_is_named_with_what_would_be_right(engines: list[Engine], id: int | str) -> None:
    async with serve(engines) as service:
        with pytest.raises(SequenceUnknown, match="sequence_start") as refused:
            await service.advance(id)
    assert (refused.value.status, refused.value.code) == (400, "sequence_unknown")
    assert f"model 'stepper' has no sequence {id!r:.20}" in refused.value.message


async def test_models_that_have_no_sequences_are_refused(engines: list[Engine]) -> None:
    async with serve(engines) as service:
        for how in ({}, {"start": True}):
            with pytest.raises(InvalidRequest, match="'sentiment' has no state"):
                await service.advance(model="sentiment", **how)
            with pytest.raises(UnknownModel):
                await service.advance(model="nobody", **how)


@pytest.mark.parametrize("settings", [{"workers": 2}, {"store_bytes": ENTRY_BYTES + 32 + 40}])
async def test_what_the_server_cannot_hold_is_refused(engines: list[Engine], settings: dict[str, Any]) -> None:
    async with serve(engines, **settings) as service:
        with pytest.raises(InvalidRequest, match=r"BATON_STORE.*state token"):
            await service.advance(start=True)
    async with serve(engines, store_bytes=ENTRY_BYTES + 32 + 56) as service:
        assert [await service.step(start=True), await service.step()] == [1, 2]


@pytest.mark.parametrize("store", ["memory", "embedded"])
async def test_a_sequence_that_is_idle_for_its_time_to_live_is_gone(
    store: str, engines: list[Engine], tmp_path: Path
) -> None:
    clock = Clock()
    async with serve(engines, clock, store=store, state_dir=tmp_path) as service:
        await service.advance(start=True)
        for step in (2, 3):
            clock.now += TTL_S - 1
            assert await service.step() == step
        clock.now += TTL_S - 1
        assert await service.knows(), "which is no step, and so prolongs nothing"
        clock.now += 1
        assert not await service.knows()
        assert await service.advance(start=True) == Advanced(step=1, restarted=False)


async def test_sequences_that_gave_way_to_others_are_unknown(engines: list[Engine]) -> None:
    async with serve(engines, store_bytes=4 * (ENTRY_BYTES + 32 + 56)) as service:
        for id in range(4):
            await service.advance(id, start=True)
        await service.advance(0)
        await service.advance(4, start=True)
        assert [await service.knows(id) for id in range(5)] == [True, False, True, True, True]


async def test_steps_of_one_sequence_are_taken_in_the_order_of_their_calls(service: Service) -> None:
    order = []

    async def take(number: int, before: Point) -> Point:
        order.append((number, before.step))
        for _ in range(20 - number):  # the later, the quicker
            await asyncio.sleep(0)
        return added(before)

    await service.advance(start=True)
    steps = [service.step(take=lambda before, number=number: take(number, before)) for number in range(20)]
    assert await asyncio.gather(*steps) == list(range(2, 22))
    assert order == [(number, number + 1) for number in range(20)]


async def test_other_sequences_do_not_wait(engines: list[Engine]) -> None:
    async with serve(engines) as service:
        await service.advance(1, start=True)
        await service.advance(2, start=True)

        async def meanwhile(before: Point) -> Point:
            assert await service.step(2) == 2
            return added(before)

        assert await service.step(1, take=meanwhile) == 2


async def test_callers_that_are_gone_pass_their_turn_on(engines: list[Engine]) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(before: Point) -> Point:
        begun.set()
        await never.wait()
        raise AssertionError

    async with serve(engines) as service:
        await service.advance(start=True)
        first = asyncio.create_task(service.step(take=hang))
        await begun.wait()
        others = [asyncio.create_task(service.step()) for _ in range(4)]
        for _ in range(5):
            await asyncio.sleep(0)
        others[1].cancel()
        first.cancel()
        others[0].cancel()
        assert await asyncio.gather(*others[2:]) == [2, 3]
        assert await service.step() == 4


async def test_who_waits_for_others_past_the_deadline_takes_no_step(engines: list[Engine]) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(before: Point) -> Point:
        begun.set()
        await go_on.wait()
        return added(before)

    async with serve(engines) as service:
        await service.advance(start=True)
        first = asyncio.create_task(service.step(take=hold))
        await begun.wait()
        with pytest.raises(DeadlineExceeded):
            await service.step(timeout_s=0.001)
        go_on.set()
        assert await first == 2
        assert await service.step() == 3


class Rivals:
    """Two services with one store."""

    def __init__(self, one: Service, engines: list[Engine]) -> None:
        self.one, self.other = one, Service(engines, Settings(state_ttl_s=TTL_S), one.stores)


@pytest.fixture
def rivals(service: Service, engines: list[Engine]) -> Rivals:
    """Two workers, or replicas, as far as they can know: each has turns of its own."""
    return Rivals(service, engines)


async def test_a_step_that_another_service_was_quicker_with_is_taken_again_from_there(rivals: Rivals) -> None:
    seen = []

    async def slow(before: Point) -> Point:
        seen.append(before.step)
        if len(seen) < 3:
            await rivals.other.advance()
        return added(before)

    await rivals.one.advance(start=True)
    assert await rivals.one.step(take=slow) == 4
    assert seen == [1, 2, 3]
    assert await rivals.other.step() == 5


async def test_one_that_ended_meanwhile_is_unknown_and_one_that_began_meanwhile_is_discarded(rivals: Rivals) -> None:
    async def ended(before: Point) -> Point:
        await rivals.other.advance(end=True)
        return added(before)

    async def begun(before: Point) -> Point:
        if not await rivals.other.knows():
            await rivals.other.advance(start=True)
        return added(before)

    await rivals.one.advance(start=True)
    for how in ({}, {"end": True}):
        with pytest.raises(SequenceUnknown):
            await rivals.one.advance(take=ended, **how)
        assert not await rivals.one.knows()
        await rivals.one.advance(start=True)
    await rivals.one.advance(end=True)
    assert await rivals.one.advance(start=True, take=begun) == Advanced(step=1, restarted=True)


async def test_who_is_overtaken_until_the_deadline_takes_no_step(rivals: Rivals) -> None:
    steps = 1

    async def late(before: Point) -> Point:
        nonlocal steps
        steps = await rivals.other.step()
        return added(before)

    await rivals.one.advance(start=True)
    with pytest.raises(DeadlineExceeded):
        await rivals.one.step(take=late, timeout_s=0.01)
    assert await rivals.one.step() == steps + 1


async def test_steps_that_two_services_take_at_once_have_one_order(rivals: Rivals) -> None:
    await rivals.one.advance(start=True)
    steps = await asyncio.gather(*(rival.step() for _ in range(15) for rival in (rivals.one, rivals.other)))
    assert sorted(steps) == list(range(2, 32))
    assert steps[::2] == sorted(steps[::2])
    assert steps[1::2] == sorted(steps[1::2])


async def test_of_starts_at_once_all_but_one_discard_another(rivals: Rivals) -> None:
    starts = await asyncio.gather(
        *(rival.advance(start=True) for _ in range(5) for rival in (rivals.one, rivals.other))
    )
    assert sorted(start.restarted for start in starts) == [False] + [True] * 9


@pytest.fixture
def versions(tmp_path: Path) -> list[Engine]:
    """Two versions of a model."""
    tiny.stepper(tmp_path / "models")
    first = tiny.stepper(tmp_path / "more", seed=4, version="2")
    shutil.move(first, tmp_path / "models" / "stepper" / "2")
    return load_here(tmp_path / "models")


async def test_a_sequence_stays_with_the_version_it_began_with_until_that_has_gone(versions: list[Engine]) -> None:
    old, new = versions

    async def by(engine: Engine, before: Point) -> Point:
        assert before.engine is engine
        return added(before)

    async with serve([old]) as service:
        await service.advance(1, start=True)
        service.registry.replace(Wanted([new], {}), now_ms=0, ttl_ms=1000)
        assert await service.step(1, take=lambda before: by(old, before)) == 2
        assert await service.step(2, start=True, take=lambda before: by(new, before)) == 1
        service.registry.remove_ended(1000)
        with pytest.raises(StateModelGone):
            await service.step(1)
        assert await service.advance(1, start=True) == Advanced(step=1, restarted=True)


async def test_a_sequence_of_a_version_that_is_not_there_yet_waits_for_a_reload(versions: list[Engine]) -> None:
    old, new = versions
    async with AsyncExitStack() as stack:
        ahead = await stack.enter_async_context(serve([new]))
        behind = Service([old], Settings(state_ttl_s=TTL_S, timeout_ms=1), ahead.stores)
        patient = Service([old], Settings(state_ttl_s=TTL_S), ahead.stores)
        await ahead.advance(start=True)
        for late in (behind, patient):
            late.registry.settled.clear()
        with pytest.raises(NotReady):
            await behind.step()
        waiting = asyncio.create_task(patient.step())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        patient.registry.replace(Wanted([new], {}), now_ms=0, ttl_ms=1000)
        patient.registry.settled.set()
        assert await waiting == 2
