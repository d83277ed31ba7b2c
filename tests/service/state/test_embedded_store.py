"""The embedded store: shared by processes, whole after any of them is killed, and never worse than its disk."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import pytest
from here import Clock

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.state.stores import embedded, folder
from service.state.stores.embedded import EmbeddedStore
from service.state.stores.store import NAME_BYTES, NO_MARK

pytestmark = pytest.mark.anyio

MAX_BYTES = 2**20
TTL_S = 3600
STATE_BYTES = 4000
PAGE_BYTES = 4096
KEY = bytes(NAME_BYTES)
SPAWN = multiprocessing.get_context("spawn")


def opened(state_dir: Path, *, max_bytes: int = MAX_BYTES, metrics: Metrics | None = None) -> EmbeddedStore:
    return EmbeddedStore(state_dir, max_bytes=max_bytes, ttl_s=TTL_S, metrics=metrics or Metrics(), clock=Clock())


def states(count: int, size: int = STATE_BYTES) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


def data(state_dir: Path) -> Path:
    return state_dir / "states" / "data.mdb"


async def saved(store: EmbeddedStore, count: int) -> dict[bytes, bytes]:
    """Save so many new states, one by one, and return them by their names."""
    return {(await store.save([state]))[0]: state for state in states(count)}


async def held(state_dir: Path, max_bytes: int = MAX_BYTES, **known: Any) -> dict[bytes, bytes | None]:
    """Return what a store that is opened now has of `names`."""
    store = opened(state_dir, max_bytes=max_bytes)
    names = list(known["names"])
    found = await store.load(names)
    await store.close()
    return dict(zip(names, found, strict=True))


async def recorded(state_dir: Path) -> bytes | None:
    """Return what a store that is opened now has under `KEY`."""
    store = opened(state_dir)
    found = await store.read(KEY)
    await store.close()
    return found.content


def save_until_killed(state_dir: Path, told: Connection) -> None:
    """Save states for ever, and tell of each once it is kept."""

    async def go_on() -> None:
        store = opened(state_dir, max_bytes=2**24)
        while True:
            for name, state in (await saved(store, 1)).items():
                told.send((name, state))

    asyncio.run(go_on())


@asynccontextmanager
async def other_process(work: Any, *arguments: Any) -> Any:
    """Have a process do `work` until the end of the block, when it is killed; yield it and what it tells."""
    told, tell = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=work, args=(*arguments, tell))
    process.start()
    tell.close()
    try:
        yield process, told
    finally:
        process.kill()
        process.join()


async def test_what_processes_saved_before_they_were_killed_is_there_for_all(tmp_path: Path) -> None:
    """Both are killed at whatever they do, which is to write; a third has the file open all the time, and shares it."""
    ours = opened(tmp_path, max_bytes=2**24)
    kept: dict[bytes, bytes] = {}
    async with (
        other_process(save_until_killed, tmp_path) as (one, from_one),
        other_process(save_until_killed, tmp_path) as (other, from_other),
    ):
        for count, alive in ((50, (from_one, from_other)), (100, (from_other,))):
            for told in alive * count:
                name, state = told.recv()
                kept[name] = state
                assert await ours.load([name]) == [state]
                kept |= await saved(ours, 1)
            one.kill()
        other.kill()
    await ours.close()
    assert await held(tmp_path, 2**24, names=kept) == kept


async def test_those_who_share_a_file_evict_for_each_other(tmp_path: Path) -> None:
    async with other_process(save_until_killed, tmp_path) as (_, told):
        first, _ = told.recv()
        ours = opened(tmp_path)
        while (await ours.load([first])) != [None]:
            await saved(ours, 10)
    mine = await saved(ours, 20)
    assert await ours.load(list(mine)) == list(mine.values())
    await ours.close()


async def test_any_mix_of_sizes_fits_and_the_file_keeps_to_its_limit(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(400):
        some = [os.urandom(size) for size in (32, 100 * (number % 41), 30_000 * (number % 5))]
        assert await store.load(await store.save(some)) == some
    await store.close()
    assert data(tmp_path).stat().st_size <= MAX_BYTES


async def test_a_lowered_limit_keeps_the_newest_and_gives_the_room_back(tmp_path: Path) -> None:
    metrics = Metrics()
    store = opened(tmp_path, max_bytes=8 * MAX_BYTES)
    kept = await saved(store, 1000)
    assert await store.swap(KEY, NO_MARK, b"a record")
    await store.close()
    assert data(tmp_path).stat().st_size > 4 * MAX_BYTES
    await opened(tmp_path, metrics=metrics).close()
    assert data(tmp_path).stat().st_size <= MAX_BYTES
    assert await recorded(tmp_path) == b"a record"
    found = await held(tmp_path, names=kept)
    there = [state is not None for state in found.values()]
    assert there == sorted(there)
    assert 150 < sum(there) < 250
    assert metrics.registry.get_sample_value("baton_evictions_total", {"reason": "space"}) == there.count(False)
    assert all(state in (None, kept[name]) for name, state in found.items())


async def test_a_clock_that_was_put_back_does_not_turn_the_order_of_uses(tmp_path: Path) -> None:
    clock = Clock()
    store = EmbeddedStore(tmp_path, max_bytes=MAX_BYTES, ttl_s=TTL_S, metrics=Metrics(), clock=clock)
    old = await saved(store, 150)
    clock.now -= 100_000
    new = await saved(store, 150)
    assert await store.load(list(new)) == list(new.values())
    assert (await store.load(list(old)))[:100] == [None] * 100
    await store.close()


def read_until_killed(state_dir: Path, told: Connection) -> None:
    """Be in the middle of reading."""
    place = str(state_dir / "states")
    with lmdb.open(place, readonly=True, max_dbs=2) as env, env.begin():
        told.send(None)
        signal.pause()


async def test_a_reader_that_hangs_stops_saving_when_the_file_is_full_until_it_is_killed(tmp_path: Path) -> None:
    """What it may still read stays, and so the file would have to grow without an end."""
    store = opened(tmp_path)
    kept = await saved(store, 50)
    async with other_process(read_until_killed, tmp_path) as (_, told):
        told.recv()
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await saved(store, 150)
        assert await store.load(list(kept)) == list(kept.values())
        assert data(tmp_path).stat().st_size <= MAX_BYTES
    new = await saved(store, 500)
    assert (await store.load(list(new)))[-100:] == list(new.values())[-100:]
    await store.close()


async def test_who_waits_for_another_process_to_write_does_not_hold_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)
    kept = await saved(store, 1)
    with (tmp_path / "states" / "turn.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = asyncio.create_task(saved(store, 1))
        for _ in range(50):
            await asyncio.sleep(0)
        assert await store.load(list(kept)) == list(kept.values())
        assert not waiting.done()
        fcntl.flock(other, fcntl.LOCK_UN)
        kept |= await waiting
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(embedded, "TURN_S", 0.01)
        with pytest.raises(StoreUnavailable) as refused:
            await saved(store, 1)
        assert refused.value.retry_after_ms
        assert refused.value.field is None
    kept |= await saved(store, 1)
    assert await store.load(list(kept)) == list(kept.values())
    await store.close()


async def test_who_gave_up_waiting_is_in_nobodys_way(tmp_path: Path) -> None:
    store = opened(tmp_path)
    gone, stays = (asyncio.create_task(saved(store, 1)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    kept = await stays
    assert await store.load(list(kept)) == list(kept.values())
    await store.close()


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2m", str(disk)], check=True)


async def test_a_full_disk_stops_saving_alone_until_there_is_room(small_disk: Path) -> None:
    metrics = Metrics()
    store = opened(small_disk, max_bytes=8 * MAX_BYTES, metrics=metrics)
    kept: dict[bytes, bytes] = {}

    async def fill() -> None:
        while len(kept) < 1000:
            kept.update(await saved(store, 1))

    with pytest.raises(StoreUnavailable) as refused:
        await fill()
    assert refused.value.retry_after_ms
    assert len(kept) > 50
    with pytest.raises(StoreUnavailable):
        await store.save([*states(2), *kept.values()])
    assert await store.load(list(kept)) == list(kept.values())
    assert metrics.registry.get_sample_value("baton_store_failures_total", {"operation": "save"}) == 2
    with pytest.raises(SettingsError, match="No space left on device"):
        opened(small_disk / "another")
    await store.close()
    store = opened(small_disk, max_bytes=8 * MAX_BYTES)
    assert await store.load(list(kept)) == list(kept.values())
    enlarge(small_disk)
    kept |= await saved(store, 10)
    assert await store.load(list(kept)) == list(kept.values())
    await store.close()
    assert await held(small_disk, 8 * MAX_BYTES, names=kept) == kept


def made_elsewhere(place: Path) -> None:
    with lmdb.open(str(place)) as env, env.begin(write=True) as txn:
        txn.put(b"something", b"else")


def made_later(place: Path) -> None:
    with lmdb.open(str(place)) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"baton states 2")


def made_by_sqlite(place: Path) -> None:
    with sqlite3.connect(place / "data.mdb") as connection:
        connection.execute("create table states (name, state)")
    connection.close()


def made_of_noise(place: Path) -> None:
    (place / "data.mdb").write_bytes(os.urandom(20_000))


def a_directory(place: Path) -> None:
    (place / "data.mdb").unlink()
    (place / "data.mdb").mkdir()


def a_lock_that_is_a_directory(place: Path) -> None:
    (place / "turn.lock").unlink()
    (place / "turn.lock").mkdir()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (made_elsewhere, "another format or version"),
        (made_later, "another format or version"),
        (made_by_sqlite, "another format or version"),
        (made_of_noise, "another format or version"),
        (a_directory, "Is a directory"),
        (a_lock_that_is_a_directory, "Is a directory"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_with_what_would_be_right_and_left_as_it_is(
    spoil: Any, says: str, restarted: bool, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    await saved(store, 50)
    await store.close()
    if spoil in (made_elsewhere, made_later, made_by_sqlite):
        data(tmp_path).unlink()
    spoil(tmp_path / "states")
    if restarted:
        if spoil is made_elsewhere:
            return  # that is what a power failure may do: see the next test
        (tmp_path / "states" / "boot").write_text("another\n")
    before = data(tmp_path).read_bytes() if data(tmp_path).is_file() else None
    for _ in range(2):
        with pytest.raises(SettingsError, match=f"(?s){data(tmp_path)}: .*{says}.*BATON_STATE_DIR.*BATON_STORE"):
            opened(tmp_path)
    assert (data(tmp_path).read_bytes() if data(tmp_path).is_file() else None) == before


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
async def test_of_a_file_that_was_cut_short_what_can_be_read_is_kept_and_nothing_else(
    share: float, tmp_path: Path
) -> None:
    store = opened(tmp_path)
    kept = await saved(store, 100)
    assert await store.swap(KEY, NO_MARK, b"a record")
    await store.close()
    os.truncate(data(tmp_path), int(share * data(tmp_path).stat().st_size))
    found = await held(tmp_path, names=kept)
    assert all(state in (None, kept[name]) for name, state in found.items())
    assert await recorded(tmp_path) in (None, b"a record")
    store = opened(tmp_path)
    new = await saved(store, 100)
    assert await store.load(list(new)) == list(new.values())
    await store.close()


async def test_where_a_file_was_deleted_and_none_can_be_made_nothing_is_kept_until_one_can(tmp_path: Path) -> None:
    store = opened(tmp_path)
    kept = await saved(store, 1)
    shutil.rmtree(tmp_path / "states")
    (tmp_path / "states").write_text("in the way")
    for attempt in (saved(store, 1), store.load(list(kept)), store.read(KEY)):
        with pytest.raises(StoreUnavailable) as refused:
            await attempt
        assert refused.value.retry_after_ms
    (tmp_path / "states").unlink()
    new = await saved(store, 1)
    assert await store.load([*kept, *new]) == [None, *new.values()]
    await store.close()
    assert await held(tmp_path, names=new) == new


def test_a_file_system_of_several_machines_is_refused_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test has such a one, so the kinds that this machine has stand for them."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    monkeypatch.setattr(folder, "REMOTE", {line.split(" - ")[1].split()[0] for line in mounts})
    with pytest.raises(SettingsError, match=r"file system of several machines, \w+; .*BATON_STATE_DIR"):
        opened(tmp_path)


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 1])
async def test_after_a_power_failure_what_can_be_read_is_kept_and_nothing_else(
    share: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Some pages that were written in the last seconds are on the disk, this share of them is not. A record may not be
    the last, and who has had the answer to a later step would not learn of it."""
    rng = random.Random(share)
    store = opened(tmp_path, max_bytes=4 * MAX_BYTES)
    kept = await saved(store, 200)
    early = data(tmp_path).read_bytes()
    kept |= await saved(store, 800)
    assert await store.swap(KEY, NO_MARK, b"a record")
    await store.close()
    late = data(tmp_path).read_bytes()
    early += bytes(len(late) - len(early))
    starts = [0, *range(2 * PAGE_BYTES, len(late), PAGE_BYTES)]  # the newest of the first two says where all else is
    pages = [(early if start and rng.random() < share else late)[start : start + PAGE_BYTES] for start in starts]
    data(tmp_path).write_bytes(pages[0] + late[PAGE_BYTES : 2 * PAGE_BYTES] + b"".join(pages[1:]))
    (tmp_path / "states" / "boot").write_text("another\n")
    store = opened(tmp_path, max_bytes=4 * MAX_BYTES)
    found = dict(zip(kept, await store.load(list(kept)), strict=True))
    assert all(state in (None, kept[name]) for name, state in found.items())
    assert await store.read(KEY) == (NO_MARK, None)
    if share == 0:
        assert "damaged" not in caplog.text
        assert sum(state is not None for state in found.values()) > 600
    new = await saved(store, 300)
    assert await store.load(list(new)) == list(new.values())
    await store.close()


async def test_a_state_that_was_altered_in_the_file_is_not_taken(tmp_path: Path) -> None:
    store = opened(tmp_path)
    ours = await saved(store, 3)
    await store.close()
    altered = next(iter(ours.values()))[100:200]
    data(tmp_path).write_bytes(data(tmp_path).read_bytes().replace(altered, bytes(100)))
    found = await held(tmp_path, names=ours)
    assert list(found.values()) == [None, *list(ours.values())[1:]]
