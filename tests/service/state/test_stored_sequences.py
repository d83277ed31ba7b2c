"""Sequences in what outlives a process: shared by several, whole after a kill, and unknown where they were damaged."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import uuid
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import redis
import tiny
from conftest import RedisServer
from counting import NUMBER, TTL_S, added, emptied, serve
from here import load_here

from service.engine.engine import Engine
from service.errors import StoreUnavailable
from service.state.sequences import Advanced
from service.state.sessions import Point

pytestmark = pytest.mark.anyio

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.stepper(root)
    return root


@pytest.fixture(scope="module")
def engines(models_dir: Path) -> list[Engine]:
    return load_here(models_dir)


def step_until_killed(models_dir: Path, state_dir: Path, told: Connection) -> None:
    """Take steps of a sequence of its own and of one that others share, for ever, and tell of each that was taken."""

    async def go_on() -> None:
        async with serve(load_here(models_dir), store="embedded", state_dir=state_dir) as service:
            await service.advance("own", start=True)
            while True:
                told.send((await service.step("own"), await service.step("shared")))

    asyncio.run(go_on())


async def test_processes_of_a_machine_share_sequences_that_outlive_a_kill(
    models_dir: Path, engines: list[Engine], tmp_path: Path
) -> None:
    """Both processes step at once; the other is killed at whatever it does, and this one goes on with its sequence."""
    async with serve(engines, store="embedded", state_dir=tmp_path) as service:
        await service.advance("shared", start=True)
        told, tell = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=step_until_killed, args=(models_dir, tmp_path, tell))
        process.start()
        tell.close()
        here, there, own = [], [], 0
        while len(there) < 100:
            here.append(await service.step("shared"))
            while told.poll():
                own, shared = told.recv()
                there.append(shared)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        while True:
            try:
                own, shared = told.recv()
            except EOFError:
                break
            there.append(shared)
        last = await service.step("shared")
        taken = {*here, *there}
        assert len(taken) == len(here) + len(there), "each step was taken once"
        assert len(set(range(2, last)) - taken) <= 1, "the last of the other's may have been taken and not told of"
        assert await service.step("own") in (own + 1, own + 2)
    async with serve(engines, store="embedded", state_dir=tmp_path) as service:
        assert await service.step("shared") == last + 1


async def test_replicas_share_sequences_in_redis(engines: list[Engine], shared_redis: RedisServer) -> None:
    """The records of those that ended are gone."""
    url = emptied(shared_redis)
    async with serve(engines, store=url) as one, serve(engines, store=url) as other:
        await one.advance(start=True)
        steps = await asyncio.gather(*(replica.step() for _ in range(10) for replica in (one, other)))
        assert sorted(steps) == list(range(2, 22))
        with redis.Redis.from_url(url) as client:
            assert await other.step() == 22
            (key,) = client.keys()
            assert key.startswith(b"baton:record:")
            assert 1000 * (TTL_S - 600) < client.pttl(key) <= 1000 * TTL_S
            await one.advance(end=True)
            assert client.keys() == []


async def test_a_redis_that_is_full_or_down_says_whether_the_step_may_have_been_taken(
    engines: list[Engine], redis_server: RedisServer
) -> None:
    async def cut_off(before: Point) -> Point:
        redis_server.pause()
        return added(before)

    async with serve(engines, store=redis_server.url) as service:
        await service.advance(start=True)
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable, match="nothing has changed") as refused:
                await service.step()
            assert refused.value.retry_after_ms
            client.config_set("maxmemory", 0)
        assert await service.step() == 2
        with pytest.raises(StoreUnavailable, match="cannot be known") as refused:
            await service.step(take=cut_off)
        assert refused.value.retry_after_ms is None
        redis_server.stop()
        with pytest.raises(StoreUnavailable, match="nothing has changed") as refused:
            await service.step()
        assert refused.value.retry_after_ms
        redis_server.start()
        assert not await service.knows(), "this Redis keeps nothing on a disk"


async def test_what_was_altered_in_redis_is_no_sequence(engines: list[Engine], shared_redis: RedisServer) -> None:
    url = emptied(shared_redis)
    with redis.Redis.from_url(url) as client:
        async with serve(engines, store=url) as service:
            await service.advance(1, start=True)
            (key,) = client.keys()
            good = client.get(key)
            await service.advance(2, start=True)
            (other,) = set(client.keys()) - {key}
            moved = client.get(other)
            turned = [good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in (0, 40)]
            for altered in (b"", good[:10], good[:-1], *turned, moved):
                client.set(key, altered)
                assert not await service.knows(1)
                assert await service.advance(1, start=True) == Advanced(step=1, restarted=False)
                assert await service.step(1) == 2
            client.set(key, good)
            assert await service.step(1) == 2


async def test_what_was_altered_in_the_file_is_no_sequence(engines: list[Engine], tmp_path: Path) -> None:
    state_dir, fill = tmp_path / "state", uuid.uuid4().bytes

    async def filled(before: Point) -> Point:
        return before.after(1, NUMBER.pack(1) + fill + bytes(before.engine.layout.size - NUMBER.size - len(fill)))

    async with serve(engines, store="embedded", state_dir=state_dir) as service:
        await service.advance(start=True, take=filled)
    file = state_dir / "states" / "data.mdb"
    file.write_bytes(file.read_bytes().replace(fill, bytes(len(fill))))
    async with serve(engines, store="embedded", state_dir=state_dir) as service:
        assert not await service.knows()
        assert await service.advance(start=True) == Advanced(step=1, restarted=False)
        assert await service.step() == 2
