"""Many deadlines and one timer: who still waits is told in time, and nobody else."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from service.batching.deadlines import Deadlines

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Item:
    deadline: float
    waits: bool = True


class Watched:
    """Deadlines by the event loop's clock, and the items that expired, with the time at which they did."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._late: asyncio.Queue[tuple[Item, float]] = asyncio.Queue()
        self.deadlines: Deadlines[Item] = Deadlines(self._expire, clock=self._clock)

    def add(self, *after_s: float) -> list[Item]:
        items = [Item(self._clock() + seconds) for seconds in after_s]
        for item in items:
            self.deadlines.add(item)
        return items

    async def next_late(self) -> Item:
        """Return the next item that expires; it must not do so early."""
        item, time = await self._late.get()
        assert time >= item.deadline
        return item

    @property
    def idle(self) -> bool:
        return self._late.empty()

    def _expire(self, item: Item) -> None:
        self._late.put_nowait((item, self._clock()))
        self.deadlines.discard(item)


async def test_every_item_expires_once_and_none_before_its_deadline() -> None:
    watched = Watched()
    after_s = [number / 1000 for number in range(30)]
    random.Random(1).shuffle(after_s)
    items = set(watched.add(*after_s))
    assert {await watched.next_late() for _ in items} == items
    assert watched.idle
    assert not watched.deadlines.open


async def test_an_item_that_is_due_before_all_others_does_not_wait_for_them() -> None:
    watched = Watched()
    (far,) = watched.add(1000)
    (near,) = watched.add(0.001)
    assert await watched.next_late() is near
    assert watched.deadlines.open == {far}
    watched.deadlines.stop()


async def test_what_was_discarded_or_waits_no_more_does_not_expire() -> None:
    watched = Watched()
    discarded, started, last = watched.add(0.001, 0.002, 0.003)
    watched.deadlines.discard(discarded)
    started.waits = False
    assert await watched.next_late() is last
    assert watched.idle
    assert watched.deadlines.open == {started}


async def test_what_is_added_after_all_others_expired_expires_too() -> None:
    watched = Watched()
    for _ in range(2):
        (item,) = watched.add(0.001)
        assert await watched.next_late() is item


async def test_nothing_expires_once_stopped() -> None:
    stopped, other = Watched(), Watched()
    stopped.add(0.001)
    stopped.deadlines.stop()
    other.add(0.002)
    await other.next_late()
    assert stopped.idle
