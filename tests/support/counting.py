"""Sequences whose steps add one to a number that is the state, so that it says how many steps truly led to it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis
from conftest import RedisServer
from here import Clock

from service.engine.engine import Engine
from service.engine.registry import Registry, Wanted
from service.errors import SequenceUnknown
from service.metrics import Metrics
from service.settings import Settings
from service.state.keys import KeyRing, new_key
from service.state.sequences import Advanced, Sequences
from service.state.sessions import Point, Sessions
from service.state.stores.choice import open_stores
from service.state.stores.store import Stores
from service.state.token import Sealer

TTL_S = 3600
TIMEOUT_S = 3600.0  # no test waits for it
NUMBER = struct.Struct("<I")

Take = Callable[[Point], Awaitable[Point]]


def number_of(point: Point) -> int:
    return 0 if point.state is None else NUMBER.unpack_from(point.state)[0]


def added(point: Point) -> Point:
    """Return the point after a step."""
    return point.after(1, NUMBER.pack(number_of(point) + 1).ljust(point.engine.layout.size, b"\0"))


class Service:
    """What one process has for sequences."""

    def __init__(self, engines: list[Engine], settings: Settings, stores: Stores | None) -> None:
        self.registry, self.stores = Registry(Wanted(engines, {})), stores
        sealer = Sealer(KeyRing([new_key()]), ttl_s=TTL_S, skew_s=0)
        sessions = Sessions(settings, self.registry, sealer, stores)
        self.sequences = Sequences(settings, self.registry, sessions, stores)

    async def advance(self, id: int | str = 1, *, take: Take | None = None, **how: Any) -> Advanced:
        """Take a step, and see that the state is one of as many steps as the sequence is said to have taken."""
        point: Point | None = None

        async def step(before: Point, left_s: float) -> Point:
            nonlocal point
            await asyncio.sleep(0)
            assert number_of(before) == before.step
            point = added(before) if take is None else await take(before)
            return point

        asked = {"model": "stepper", "tenant": "t", "start": False, "end": False, "timeout_s": TIMEOUT_S, **how}
        advanced = await self.sequences.advance(asked.pop("model"), id, take=step, **asked)
        assert point is not None
        assert number_of(point) == point.step == advanced.step
        return advanced

    async def step(self, id: int | str = 1, **how: Any) -> int:
        return (await self.advance(id, **how)).step

    async def knows(self, id: int | str = 1, **how: Any) -> bool:
        """Return whether a step would go on, and take none."""
        try:
            await self.advance(id, take=fail, **how)
        except SequenceUnknown:
            return False
        except Failed:
            return True
        raise AssertionError("a step that failed was taken")


class Failed(Exception):
    pass


async def fail(before: Point) -> Point:
    raise Failed


@asynccontextmanager
async def serve(engines: list[Engine], clock: Clock | None = None, **settings: Any) -> AsyncIterator[Service]:
    read = Settings(state_ttl_s=TTL_S, **{"store": "memory", **settings})
    stores = open_stores(read, Metrics(), clock or Clock())
    yield Service(engines, read, stores)
    if stores is not None:
        await stores.close()


def emptied(server: RedisServer) -> str:
    """Return the URL of a Redis that has nothing any more."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url
