"""Stores of held states by themselves: what loads is what was saved, or nothing; none outgrows its bounds."""

from __future__ import annotations

import asyncio
import gc
import importlib.abc
import os
import sys
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import RedisServer
from here import Clock

from service.errors import BatchTooLarge, SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.settings import ENTRY_BYTES, Settings, load_settings
from service.state.stores.choice import open_stores
from service.state.stores.embedded import EmbeddedStore
from service.state.stores.memory import MemoryStore
from service.state.stores.redis import REDIS_CONNECTIONS, RedisStore
from service.state.stores.store import MARK_BYTES, NAME_BYTES, NO_MARK, Record, Store, name_of, value_of

pytestmark = pytest.mark.anyio

STATE_BYTES = 100


KEPT_BYTES = 4000  # of a state in tests for all stores
TTL_S = 3600
MAX_BYTES = 2**20


@dataclass
class Opened:
    """A store of any kind, and what it is watched by."""

    store: Store
    metrics: Metrics
    clock: Clock

    async def saved(self, count: int) -> list[bytes]:
        """Save so many new states, one by one, and return their names."""
        return [(await self.store.save(states(1, KEPT_BYTES)))[0] for _ in range(count)]

    async def there(self, names: Sequence[bytes]) -> list[bool]:
        return [state is not None for state in await self.store.load(names)]


@pytest.fixture
async def bounded(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Opened]:
    """A store that keeps its own bounds."""
    metrics, clock = Metrics(), Clock()
    settings = Settings(store=request.param, store_bytes=MAX_BYTES, state_ttl_s=TTL_S, state_dir=tmp_path)
    stores = open_stores(settings, metrics, clock)
    assert stores is not None
    yield Opened(await stores.of(""), metrics, clock)
    await stores.close()


@pytest.fixture(params=["memory", "embedded", "redis", "a share of memory", "a share of embedded", "a share of redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    *share, kind = request.param.split(" of ")
    quota = 64 * 2**20 if share else None
    name = request.getfixturevalue("shared_redis").url if kind == "redis" else kind
    opened = open_stores(Settings(store=name, state_dir=tmp_path, tenant_held_bytes=quota), Metrics(), Clock())
    assert opened is not None
    yield await opened.of("acme")
    await opened.close()


bounded_stores = pytest.mark.parametrize("bounded", ["memory", "embedded"], indirect=True)


def memory(places: int, clock: Clock | None = None) -> tuple[MemoryStore, Metrics]:
    """Return a store with room for so many states of `STATE_BYTES`."""
    metrics = Metrics()
    max_bytes = places * (STATE_BYTES + ENTRY_BYTES)
    return MemoryStore(max_bytes=max_bytes, ttl_s=60, metrics=metrics, clock=clock or Clock()), metrics


def states(count: int, size: int = STATE_BYTES) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"baton_{name}", labels) or 0.0


async def test_what_was_saved_loads_and_other_names_are_gone(store: Store) -> None:
    saved = [b"", *states(5), *states(1, 4096), *states(1, 100_000)]
    names = await store.save(saved)
    assert await store.load([*reversed(names), bytes(16)]) == [*reversed(saved), None]
    assert await store.save(saved) == names
    assert await store.load(names) == saved


async def test_a_record_changes_only_from_what_it_was(store: Store) -> None:
    key, other = os.urandom(NAME_BYTES), os.urandom(NAME_BYTES)
    assert await store.read(key) == (NO_MARK, None)
    marks = [NO_MARK]
    for content in (b"", b"ab", *states(1, 4096), *states(1, 100_000), b"ab"):
        for before in {*marks, os.urandom(MARK_BYTES)} - {marks[-1]}:
            assert not await store.swap(key, before, b"else")
            assert not await store.swap(key, before, None)
        assert await store.swap(key, marks[-1], content)
        found = await store.read(key)
        assert found.content == content
        marks.append(found.mark)
    assert marks[2] == marks[-1]
    assert len(set(marks)) == len(marks) - 1
    assert await store.swap(other, NO_MARK, b"ab")
    assert (await store.read(other)).mark not in marks
    assert await store.swap(key, marks[-1], None)
    assert await store.read(key) == (NO_MARK, None)
    assert await store.swap(key, NO_MARK, None)


async def test_of_swaps_at_once_one_succeeds_and_those_of_one_process_are_in_order(store: Store) -> None:
    key = os.urandom(NAME_BYTES)
    contents = states(10)
    swapped = await asyncio.gather(*(store.swap(key, NO_MARK, content) for content in contents))
    assert sum(swapped) == 1
    mark, content = await store.read(key)
    assert content == contents[swapped.index(True)]
    if isinstance(store, EmbeddedStore):  # whose swaps of one turn of the loop share a transaction
        steps = [mark, *(value_of(key, content)[:MARK_BYTES] for content in contents)]
        chain = zip(steps[:-1], contents, strict=True)
        swapped = await asyncio.gather(*(store.swap(key, before, content) for before, content in chain))
        assert all(swapped)
        assert (await store.read(key)).content == contents[-1]


@bounded_stores
async def test_a_record_has_the_bounds_of_a_snapshot(bounded: Opened) -> None:
    key = bytes(NAME_BYTES)
    with pytest.raises(BatchTooLarge) as refused:
        await bounded.store.swap(key, NO_MARK, bytes(MAX_BYTES))
    assert refused.value.limit
    assert await bounded.store.swap(key, NO_MARK, b"1")
    while (await bounded.store.read(key)).content is not None:
        await bounded.saved(1)
    assert value(bounded.metrics, "evictions_total", reason="space") > 0
    assert await bounded.store.swap(key, NO_MARK, b"2")
    bounded.clock.now += TTL_S + 1
    assert await bounded.store.read(key) == (NO_MARK, None)
    assert await bounded.store.swap(key, NO_MARK, b"3")
    assert (await bounded.store.read(key)).content == b"3"


@bounded_stores
async def test_the_least_recently_used_give_way_and_it_shows(bounded: Opened) -> None:
    names = await bounded.saved(10)
    bounded.clock.now += 120
    assert await bounded.there(names[:5]) == [True] * 5
    names = names[5:] + names[:5]
    while (gone := int(value(bounded.metrics, "evictions_total", reason="space"))) < 8:
        names += await bounded.saved(1)
    assert gone < 12
    assert value(bounded.metrics, "held_states") == len(names) - gone
    assert KEPT_BYTES * (len(names) - gone) < value(bounded.metrics, "held_bytes") <= MAX_BYTES
    assert await bounded.there(names) == [False] * gone + [True] * (len(names) - gone)


@bounded_stores
async def test_what_does_not_fit_together_is_refused_and_drops_nothing(bounded: Opened) -> None:
    """Else the first of a request's states would be gone before its answer was sent."""
    saved = states(3)
    names = await bounded.store.save(saved)
    with pytest.raises(BatchTooLarge) as refused:
        await bounded.store.save(states(MAX_BYTES // KEPT_BYTES, KEPT_BYTES))
    assert refused.value.limit
    assert await bounded.store.load(names) == saved
    assert value(bounded.metrics, "evictions_total", reason="space") == 0
    most = states(refused.value.limit // (KEPT_BYTES + ENTRY_BYTES), KEPT_BYTES)
    for _ in range(20):
        assert await bounded.store.load(await bounded.store.save(most)) == most


@bounded_stores
async def test_the_old_go_a_time_to_live_after_their_last_use(bounded: Opened) -> None:
    names = await bounded.saved(3)
    bounded.clock.now += TTL_S - 60
    assert await bounded.there(names[:1]) == [True]
    await bounded.store.save([])  # whatever is written of a use comes with the next save
    bounded.clock.now += 61
    assert await bounded.there(names) == [True, False, False]
    await bounded.store.save([])
    assert value(bounded.metrics, "evictions_total", reason="age") == 2
    bounded.clock.now += TTL_S
    assert await bounded.there(names) == [False] * 3
    await bounded.store.save([])
    assert (value(bounded.metrics, "held_states"), value(bounded.metrics, "held_bytes")) == (0, 0)


@bounded_stores
async def test_the_same_state_is_kept_once(bounded: Opened) -> None:
    (state,) = states(1)
    (first, second), (third,) = await bounded.store.save([state, state]), await bounded.store.save([bytes(state)])
    assert first == second == third
    assert value(bounded.metrics, "held_states") == 1


async def test_a_snapshot_in_memory_takes_no_more_than_it_is_counted_with() -> None:
    count, size = 20_000, 1000
    store, metrics = memory(count * 3)
    gc.collect()
    tracemalloc.start()
    for _ in range(count // 100):
        await store.save(states(100, size))
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert value(metrics, "held_states") == count
    over = taken / count - size
    assert 0 < over <= ENTRY_BYTES <= 512
    assert taken <= value(metrics, "held_bytes")


async def test_redis_keeps_what_was_saved_for_the_time_to_live(redis_server: RedisServer) -> None:
    store = open_redis(redis_server)
    saved = states(5)
    names = await store.save(saved)
    assert await store.load([*reversed(names), bytes(16)]) == [*reversed(saved), None]
    keys = [key async for key in store._redis.scan_iter()]
    assert sorted(keys) == sorted(b"baton:state:" + name.hex().encode() for name in names)
    assert 0 < await store._redis.pttl(keys[0]) <= 60_000
    await store.close()


@pytest.mark.parametrize("answer", [b":1", b"$3\r\nabc", b"+OK", b"*-1", b"*0", b"#t", b"!!"])
async def test_what_is_no_redis_is_unavailable(answer: bytes) -> None:
    """Whatever the parser makes of such answers, the caller hears of the store and not of the parser."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            stores = b"MGET" in data or b"\nSET\r" in data or b"EVAL" in data
            writer.write((answer if stores else b"+OK") + b"\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0?protocol=2", ttl_s=60, metrics=Metrics())
    with pytest.raises(StoreUnavailable):
        await store.load([bytes(16), bytes(16)])
    with pytest.raises(StoreUnavailable):
        await store.read(bytes(16))
    if answer != b"+OK":
        with pytest.raises(StoreUnavailable):
            await store.save(states(2))
    if answer != b":1":
        with pytest.raises(StoreUnavailable):
            await store.swap(bytes(16), NO_MARK, b"")
    await store.close()
    server.close()


async def test_a_swap_that_is_not_answered_is_not_sent_again() -> None:
    """It may have been made, and then a second one would find that another had been quicker."""
    asked = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if b"MGET" in data or b"EVAL" in data:
                asked.append("read" if b"MGET" in data else "swap")
                break
            writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0?protocol=2", ttl_s=60, metrics=Metrics())
    for use in (store.read(bytes(16)), store.swap(bytes(16), NO_MARK, b"")):
        with pytest.raises(StoreUnavailable):
            await use
    assert asked == ["read", "read", "swap"]
    await store.close()
    server.close()


@pytest.mark.parametrize("altered", [b"", b"x", b"x" * STATE_BYTES, b"x" * 5000])
async def test_a_value_that_was_altered_in_redis_is_not_taken(redis_server: RedisServer, altered: bytes) -> None:
    store = open_redis(redis_server)
    ours, other = await store.save(states(2))
    key, other_key = (f"baton:state:{name.hex()}" for name in (ours, other))
    await store._redis.set(key, altered)
    assert await store.load([ours]) == [None]
    await store._redis.copy(other_key, key, replace=True)
    assert await store.load([ours]) == [None]
    await store.close()


async def test_redis_that_is_gone_or_hangs_is_unavailable_and_then_works_again(redis_server: RedisServer) -> None:
    store = open_redis(redis_server)
    saved = states(3)
    names = await store.save(saved)
    redis_server.pause()
    await assert_unavailable(store, saved, names)
    redis_server.go_on()
    assert await store.load(names) == saved
    redis_server.stop()
    await assert_unavailable(store, saved, names)
    redis_server.start()
    assert await store.load(names) == [None] * 3
    await store.save(saved)
    assert await store.load(names) == saved
    await store.close()


async def assert_unavailable(store: RedisStore, saved: Sequence[bytes], names: Sequence[bytes]) -> None:
    for attempt in (store.load(names), store.save(saved)):
        with pytest.raises(StoreUnavailable) as refused:
            await attempt
        assert refused.value.retry_after_ms
        assert refused.value.field is None


async def test_a_swap_that_got_no_connection_has_changed_nothing(redis_server: RedisServer) -> None:
    """Of a Redis that hangs, those on a connection may have come true, and one that waited for a connection not."""
    store, fresh = open_redis(redis_server), open_redis(redis_server)
    keys = [name_of(bytes([number])) for number in range(REDIS_CONNECTIONS + 1)]
    await asyncio.gather(*(store.read(key) for key in keys[1:]))  # each on a connection of its own
    redis_server.pause()
    swaps = [*(store.swap(key, NO_MARK, b"x") for key in keys), fresh.swap(bytes(16), NO_MARK, b"x")]
    *outcomes, unconnected = await asyncio.gather(*swaps, return_exceptions=True)
    redis_server.go_on()
    assert_repeatable(unconnected)
    certain = [(key, one) for key, one in zip(keys, outcomes, strict=True) if "cannot be known" not in str(one)]
    assert 0 < len(certain) < len(keys)
    for key, one in certain:
        assert_repeatable(one)
        assert await store.read(key) == Record(NO_MARK, None)
        assert await store.swap(key, NO_MARK, b"x")
    redis_server.stop()
    assert_repeatable(*await asyncio.gather(fresh.swap(bytes(16), NO_MARK, b"x"), return_exceptions=True))
    for each in (store, fresh):
        await each.close()


def assert_repeatable(outcome: object) -> None:
    assert isinstance(outcome, StoreUnavailable)
    assert "nothing has changed, send the same again" in outcome.message
    assert outcome.retry_after_ms


def open_redis(server: RedisServer) -> RedisStore:
    return RedisStore(server.url, ttl_s=60, metrics=Metrics())


async def test_several_workers_have_no_memory_in_common() -> None:
    assert open_stores(Settings(store="memory", workers=2), Metrics(), Clock()) is None


@pytest.mark.parametrize(
    "url", ["redis://host:port/0", "redis://host/0?socket_timeout=soon", "unix://?db=x", "redis://host/0?tiemout=1"]
)
async def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="BATON_STORE"):
        open_stores(Settings(store=url), Metrics(), Clock())


@pytest.mark.parametrize("store", ["", "disk", "http://:secret@host"])
async def test_a_store_that_is_none_is_refused_without_telling_a_password(store: str) -> None:
    with pytest.raises(SettingsError, match=r"BATON_STORE: .*redis://") as refused:
        load_settings(store=store)
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(Settings(store="redis://:secret@host"))


async def test_without_the_package_redis_start_up_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name.split(".")[0] == "redis":
                raise ModuleNotFoundError(name)

    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert open_stores(Settings(store="memory"), Metrics(), Clock()) is not None
    with pytest.raises(SettingsError, match=r"pip install 'baton-serving\[redis\]'"):
        open_stores(Settings(store="redis://localhost"), Metrics(), Clock())
