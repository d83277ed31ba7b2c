"""Held states of each tenant apart: one fills its own room, and neither reads nor drops what another holds."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from conftest import RedisServer, ServerFactory
from here import Clock
from keyring import Keyring

from service.errors import BatchTooLarge, StoreUnavailable
from service.metrics import Metrics
from service.settings import ENTRY_BYTES, Settings
from service.state.stores.choice import TenantStores, open_stores
from service.state.stores.memory import MemoryStore
from service.state.stores.store import NO_MARK, Stores, name_of

pytestmark = pytest.mark.anyio

QUOTA = 2**20
STATE_BYTES = 16_384
FITS = QUOTA // (STATE_BYTES + ENTRY_BYTES)
KINDS = ["memory", "embedded", "redis"]


@pytest.fixture(params=KINDS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    kind = request.param
    name = request.getfixturevalue("redis_server").url if kind == "redis" else kind
    opened = open_stores(Settings(store=name, state_dir=tmp_path, tenant_held_bytes=QUOTA), Metrics(), Clock())
    assert opened is not None
    yield opened
    await opened.close()


def states(count: int) -> list[bytes]:
    return [os.urandom(STATE_BYTES) for _ in range(count)]


async def save(stores: Stores, tenant: str, count: int) -> list[bytes]:
    """Save so many new states of a tenant one by one, and return their names."""
    store = await stores.of(tenant)
    return [name for state in states(count) for name in await store.save([state])]


async def there(stores: Stores, tenant: str, names: list[bytes]) -> list[bool]:
    return [state is not None for state in await (await stores.of(tenant)).load(names)]


async def test_a_tenant_that_fills_its_room_drops_its_own_oldest_and_nobody_else_s(stores: Stores) -> None:
    others, (sequence, content) = await save(stores, "bolt", 3), (bytes(16), b"a sequence of bolt")
    assert await (await stores.of("bolt")).swap(sequence, NO_MARK, content)
    names = await save(stores, "acme", 2 * FITS)
    kept = await there(stores, "acme", names)
    assert kept == sorted(kept), "what is gone is the oldest"
    assert FITS // 3 <= sum(kept) <= FITS
    assert await there(stores, "bolt", others) == [True] * 3
    assert (await (await stores.of("bolt")).read(sequence)).content == content


async def test_sequences_count_at_their_size_now(stores: Stores) -> None:
    """A record that is replaced takes no more room than one, and one that ends takes none."""
    store, key = await stores.of("acme"), os.urandom(16)
    (name,) = await save(stores, "acme", 1)
    mark = NO_MARK
    for content in states(3 * FITS):
        assert await store.swap(key, mark, content)
        mark = (await store.read(key)).mark
    assert await there(stores, "acme", [name]) == [True]
    assert await store.swap(key, mark, None)
    assert await there(stores, "acme", [name]) == [True]


async def test_equal_states_of_two_tenants_are_two(stores: Stores) -> None:
    (state,) = states(1)
    for tenant in ("acme", "bolt"):
        assert await (await stores.of(tenant)).save([state]) == [name_of(state)]
    await save(stores, "acme", 2 * FITS)
    assert await there(stores, "acme", [name_of(state)]) == [False]
    assert await there(stores, "bolt", [name_of(state)]) == [True]


async def test_a_tenant_reads_nothing_of_another(stores: Stores) -> None:
    names = await save(stores, "acme", 2)
    assert await (await stores.of("acme")).swap(bytes(16), NO_MARK, b"of acme")
    for other in ("bolt", "", "acme ", "Acme", "../acme"):
        assert await there(stores, other, names) == [False, False]
        assert (await (await stores.of(other)).read(bytes(16))).content is None


async def test_states_that_never_fit_are_refused_with_the_room_that_there_is(stores: Stores) -> None:
    (name,) = await save(stores, "acme", 1)
    with pytest.raises(BatchTooLarge) as refused:
        await (await stores.of("acme")).save(states(2 * FITS))
    assert refused.value.limit is not None
    assert refused.value.limit <= QUOTA
    assert await there(stores, "acme", [name]) == [True]


def spoil(state_dir: Path) -> None:
    (file,) = state_dir.glob("tenants/*/states/data.mdb")
    file.write_bytes(b"something else")


async def test_a_tenant_whose_file_cannot_be_opened_is_alone_with_that(tmp_path: Path) -> None:
    stores = open_stores(Settings(state_dir=tmp_path, tenant_held_bytes=QUOTA), Metrics(), Clock())
    assert stores is not None
    names = await save(stores, "acme", 1)
    await stores.close()
    spoil(tmp_path)
    stores = open_stores(Settings(state_dir=tmp_path, tenant_held_bytes=QUOTA), Metrics(), Clock())
    assert stores is not None
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="send the same again"):
            await there(stores, "acme", names)
    assert await there(stores, "bolt", await save(stores, "bolt", 1)) == [True]
    await stores.close()


async def test_what_is_shown_is_what_all_tenants_hold(tmp_path: Path) -> None:
    metrics = Metrics()
    stores = open_stores(Settings(store="memory", tenant_held_bytes=QUOTA), metrics, Clock())
    assert stores is not None
    for tenant, count in (("acme", 2), ("bolt", 3)):
        await save(stores, tenant, count)
    assert metrics.registry.get_sample_value("baton_held_states") == 5
    assert metrics.registry.get_sample_value("baton_held_bytes") == 5 * (STATE_BYTES + ENTRY_BYTES)


@pytest.mark.parametrize("evicted", ["uses", "sizes"])
async def test_a_redis_that_evicted_what_it_knows_of_a_tenant_goes_on(redis_server: RedisServer, evicted: str) -> None:
    """It may be told to evict any key (allkeys-lru); what it has forgotten counts for nothing."""
    stores = open_stores(Settings(store=redis_server.url, tenant_held_bytes=QUOTA), Metrics(), Clock())
    assert stores is not None
    await save(stores, "acme", FITS)
    with redis.Redis.from_url(redis_server.url) as client:
        (key,) = client.keys(f"baton:share:*:{evicted}")
        client.delete(key)
    names = await save(stores, "acme", 2 * FITS)
    kept = await there(stores, "acme", names)
    assert FITS // 3 <= sum(kept) <= FITS
    assert kept == sorted(kept)
    await stores.close()


async def test_a_step_of_a_sequence_is_kept_and_noted_at_once(redis_server: RedisServer) -> None:
    stores = open_stores(Settings(store=redis_server.url, tenant_held_bytes=QUOTA), Metrics(), Clock())
    assert stores is not None
    store = await stores.of("acme")
    assert await store.swap(bytes(16), NO_MARK, b"1")
    with redis.Redis.from_url(redis_server.url) as client:
        assert len(client.keys("baton:share:*")) == 2
        assert len(client.keys("baton:record:*")) == 1
    await stores.close()


async def test_a_store_that_could_not_be_opened_is_tried_again() -> None:
    calls = []

    def open_one(_: str) -> MemoryStore:
        calls.append(_)
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")
        return MemoryStore(max_bytes=QUOTA, ttl_s=60, metrics=Metrics(), clock=Clock())

    stores = TenantStores(open_one)
    with pytest.raises(RuntimeError):
        await stores.of("acme")
    assert await stores.of("acme") is await stores.of("acme")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_sessions_of_tenants_are_held_apart_by_a_service(
    kind: str, tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    """Also after a restart, and with sequences of the same id."""
    keys = Keyring("acme", "bolt")
    server = start_server(
        tiny_models,
        tmp_path,
        BATON_API_KEYS=keys.setting,
        BATON_STORE=redis_server.url if kind == "redis" else kind,
        BATON_TENANT_HELD_BYTES=str(QUOTA),
    )
    body = {"model": "stepper", "hold": "server", "items": [{"inputs": [[1, 2]]}]}
    tensor = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}

    def step(tenant: str, state: str | None = None) -> dict:
        item = body["items"][0] | ({} if state is None else {"state": state})
        (result,) = server.post("/v1/step", body | {"items": [item]}, headers=keys.header(tenant)).json()["results"]
        return result

    def sequence(tenant: str, **flags: bool) -> int:
        parameters = {"sequence_id": 5, **flags}
        asked = {"inputs": [tensor], "parameters": parameters}
        return server.post("/v2/models/stepper/infer", asked, headers=keys.header(tenant)).status_code

    states = {tenant: step(tenant)["state"] for tenant in ("acme", "bolt")}
    assert sequence("acme", sequence_start=True) == 200
    assert sequence("bolt") == 400
    assert step("acme", states["bolt"])["error"]["code"] == "state_invalid"
    server.stop()
    server.start()
    assert {tenant: step(tenant, state)["step"] for tenant, state in states.items()} == {"acme": 2, "bolt": 2}
    assert sequence("acme") == 200
