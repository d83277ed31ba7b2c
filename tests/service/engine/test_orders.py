"""Orders among the processes of a service, two of which are played by this one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from service.engine.orders import Order, Orders, Refusal, Refused
from service.errors import Draining, LoadFailed

pytestmark = pytest.mark.anyio

BROKEN = Refusal("file: is broken", version="2")


@pytest.fixture
def orders() -> Iterator[Orders]:
    with Orders.shared(processes=2) as shared:
        yield shared


class Follower:
    """Keeps the orders that came and those that it took up, and refuses to load what is in `broken`."""

    def __init__(self) -> None:
        self.came: list[Order] = []
        self.taken_up: list[Order] = []
        self.broken: set[str] = set()
        self.told, self.ready, self.acted, self.free = (asyncio.Event() for _ in range(4))
        self.free.set()

    @asynccontextmanager
    async def follow(self, order: Order) -> AsyncIterator[None]:
        self.came.append(order)
        self.told.set()
        if order.has_stages and order.name in self.broken:
            raise Refused(BROKEN)
        self.free.clear()
        self.ready.set()
        try:
            yield
            self.taken_up.append(order)
            self.acted.set()
        finally:
            self.free.set()


async def test_what_was_unloaded_is_known_to_all_until_it_is_loaded(orders: Orders) -> None:
    here, there = Follower(), Follower()
    odd = ["a" * 255, os.fsdecode(b"\xff\xfe"), "b", "c"]
    with orders.of(0).followed(here.follow), orders.of(1).followed(there.follow):
        for name in [*odd, "b"]:
            await orders.of(1).unload(name)
        assert orders.of(0).unloaded() == set(odd)
        for name in ["b", odd[0], "b"]:
            await orders.of(0).load(name)
        await orders.of(0).unload("d")
    assert orders.of(1).unloaded() == {odd[1], "c", "d"}
    assert {order.name for order in here.came} == {order.name for order in there.came} == {*odd, "d"}
    assert here.came[-1] == there.came[-1] == Order("d", wanted=False)


async def test_what_the_asked_process_cannot_load_the_others_are_not_asked_to(orders: Orders) -> None:
    here, there = Follower(), Follower()
    with orders.of(0).followed(here.follow), orders.of(1).followed(there.follow):
        await orders.of(0).unload("x")
        here.broken = {"x"}
        with pytest.raises(LoadFailed, match="model 'x': version 2: file: is broken"):
            await orders.of(0).load("x")
    assert orders.unloaded() == {"x"}
    assert there.came == there.taken_up == [Order("x", wanted=False), Order("x", wanted=True, refused=BROKEN)]


async def test_what_another_process_cannot_load_nobody_takes_up(orders: Orders) -> None:
    here, there = Follower(), Follower()
    there.broken = {"x", "y"}
    with orders.of(0).followed(here.follow), orders.of(1).followed(there.follow):
        await orders.of(0).unload("x")
        for name in ("x", "y"):
            with pytest.raises(LoadFailed):
                await orders.of(0).load(name)
            await here.free.wait()
    assert orders.unloaded() == {"x"}
    refused = [Order(name, wanted=True, refused=BROKEN) for name in ("x", "y")]
    assert here.taken_up == there.taken_up == [Order("x", wanted=False), *refused]


async def test_a_process_takes_up_nothing_before_all_are_ready(orders: Orders) -> None:
    here, there = Follower(), Follower()
    with orders.of(0).followed(here.follow):
        loading = asyncio.create_task(orders.of(0).load("x"))
        await here.ready.wait()
        assert here.taken_up == []
        with orders.of(1).followed(there.follow):
            await loading
    assert here.came == here.taken_up == there.came == there.taken_up == [Order("x", wanted=True)]


async def test_whoever_is_ready_for_an_asker_that_died_drops_what_it_has(orders: Orders) -> None:
    there = Follower()
    with orders.of(1).followed(there.follow):
        asker = asyncio.create_task(orders.of(1).load("x"))
        await there.ready.wait()
        asker.cancel()
        await asyncio.gather(asker, return_exceptions=True)
        await there.free.wait()
    assert there.taken_up == []


async def test_the_successor_of_who_died_when_it_was_ready_takes_up_too(orders: Orders) -> None:
    here, successor = Follower(), Follower()

    @asynccontextmanager
    async def die(order: Order) -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise asyncio.CancelledError

    with orders.of(0).followed(here.follow):
        with orders.of(1).followed(die):
            loading = asyncio.create_task(orders.of(0).load("x"))
            await here.acted.wait()
        with orders.of(1).followed(successor.follow):
            await loading
    assert here.taken_up == successor.taken_up == [Order("x", wanted=True)]


async def test_who_waits_for_a_process_hears_that_the_service_ends(orders: Orders) -> None:
    here = Follower()
    asked = orders.of(0)
    with asked.followed(here.follow):
        loading = asyncio.create_task(asked.load("x"))  # the other process is not there
        await here.ready.wait()
        asked.end()
        with pytest.raises(Draining):
            await loading
        with pytest.raises(Draining):
            await asked.unload("y")
        await here.free.wait()
    assert here.taken_up == []


async def test_a_process_that_is_not_there_yet_is_waited_for(orders: Orders) -> None:
    here, there = Follower(), Follower()
    with orders.of(0).followed(here.follow):
        unloading = asyncio.create_task(orders.of(0).unload("x"))
        await here.told.wait()
        assert orders.of(1).unloaded() == {"x"}, "who starts now does not load it"
        assert not unloading.done()
        with orders.of(1).followed(there.follow):
            await unloading
    assert there.came == [Order("x", wanted=False)]


async def test_an_order_goes_to_the_successor_of_who_died_over_it(orders: Orders) -> None:
    here, there = Follower(), Follower()
    began = asyncio.Event()

    @asynccontextmanager
    async def hang(order: Order) -> AsyncIterator[None]:
        began.set()
        await asyncio.Event().wait()
        yield

    with orders.of(0).followed(here.follow):
        with orders.of(1).followed(hang):
            unloading = asyncio.create_task(orders.of(0).unload("x"))
            await began.wait()
        with orders.of(1).followed(there.follow):
            await unloading
    assert there.came == [Order("x", wanted=False)]


async def test_orders_are_given_one_at_a_time(orders: Orders) -> None:
    active: set[str] = set()

    @asynccontextmanager
    async def follow(order: Order) -> AsyncIterator[None]:
        active.add(order.name)
        assert active == {order.name}
        for _ in range(10):
            await asyncio.sleep(0)
        yield
        active.discard(order.name)

    with orders.of(0).followed(follow), orders.of(1).followed(follow):
        await asyncio.gather(*(orders.of(number % 2).unload(f"model-{number}") for number in range(6)))
    assert orders.unloaded() == {f"model-{number}" for number in range(6)}
