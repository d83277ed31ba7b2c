"""The client's streams where a connection breaks anywhere, or a call is cancelled anywhere: every output once."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import tiny
from conftest import Server, ServerFactory
from uninterrupted import ROWS, assert_each_once, whole

from baton_client import AsyncClient, StepOutput, StreamInterrupted
from baton_client.async_stream import MAX_OUTSTANDING

CHECKPOINT = b'{"type":"checkpoint"'
FRAME_HEAD = 4  # bytes before a frame of 126 to 65,535
Cut = Callable[[bytes], int | None]
"""Given all that a connection was sent so far, after how many bytes it breaks, or None."""


@asynccontextmanager
async def cutting_proxy(server: Server, cut: Callable[[], Cut]) -> AsyncIterator[str]:
    """A TCP proxy; it breaks each connection where its `cut` says."""
    assert server.url is not None
    host, port = server.url.removeprefix("http://").split(":")

    async def up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut) -> None:
        seen = b""
        while data := await reader.read(65_536):
            passed, seen = len(seen), seen + data
            end = cut(seen)
            writer.write(data if end is None else data[: max(0, end - passed)])
            await writer.drain()
            if end is not None:
                return

    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(cast(asyncio.Task[None], asyncio.current_task()))
        served_reader, served_writer = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(up(reader, served_writer)), asyncio.create_task(down(served_reader, writer, cut()))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, served_writer):
            end.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with proxy:
        yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    await asyncio.gather(*connections)


def anywhere(seed: int) -> Callable[[], Cut]:
    rng = random.Random(seed)

    def cut() -> Cut:
        budget = rng.randrange(100, 4000)
        return lambda seen: budget if len(seen) >= budget else None

    return cut


def at_checkpoints(after: int) -> Callable[[], Cut]:
    """Break right before (after=0) or right after (after=1) the second checkpoint of each connection."""

    def cut(seen: bytes) -> int | None:
        starts = [place for place in range(len(seen)) if seen.startswith(CHECKPOINT, place)]
        if len(starts) < 2:
            return None
        head = starts[1] - FRAME_HEAD
        end = starts[1] + int.from_bytes(seen[head + 2 : starts[1]])
        if not after:
            return head
        return end if len(seen) >= end else None

    return lambda: cut


@pytest.mark.anyio
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "cut",
    [*map(anywhere, range(4)), at_checkpoints(0), at_checkpoints(1)],
    ids=[*(f"anywhere {seed}" for seed in range(4)), "before checkpoints", "after checkpoints"],
)
async def test_outputs_come_once_wherever_the_connection_breaks(
    server: Server, cut: Callable[[], Cut], binary: bool
) -> None:
    expected = await asyncio.to_thread(whole, server)
    connections = 0

    def counted() -> Cut:
        nonlocal connections
        connections += 1
        return cut()

    async with (
        cutting_proxy(server, counted) as url,
        AsyncClient(url) as client,
        client.stream("stepper", checkpoint_every=11, binary=binary) as stream,
    ):
        assert_each_once([output async for output in stream.map(ROWS[:, None])], expected)
    assert connections > 2


@pytest.mark.anyio
async def test_a_receive_that_is_cancelled_loses_no_output(server: Server) -> None:
    """However far it got: each turn of the event loop is one more place to be cancelled at."""
    found: list[StepOutput] = []
    assert server.url is not None
    async with AsyncClient(server.url) as client, client.stream("stepper") as stream:
        for turns, row in enumerate(ROWS[:20]):
            await stream.send(row[None])
            receiving = asyncio.create_task(stream.recv())
            for _ in range(turns):
                await asyncio.sleep(0)
            receiving.cancel()
            found += [
                answer
                for answer in await asyncio.gather(receiving, return_exceptions=True)
                if not isinstance(answer, BaseException)
            ]
        while stream.outstanding:
            found.append(await stream.recv())
    assert_each_once(found, await asyncio.to_thread(whole, server, ROWS[:20]))


@pytest.mark.anyio
async def test_a_send_that_is_cancelled_was_made_or_not_and_the_stream_goes_on(server: Server) -> None:
    assert server.url is not None
    async with AsyncClient(server.url) as client, client.stream("stepper", checkpoint_every=1000) as stream:
        for turns, row in enumerate(ROWS[:8]):
            sending = asyncio.create_task(stream.send(row[None]))
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        made = [await stream.recv() for _ in range(stream.outstanding)]
        taken = np.concatenate(stream.unacknowledged)
    assert_each_once(made, await asyncio.to_thread(whole, server, taken))


@pytest.mark.anyio
async def test_a_send_that_is_cancelled_while_the_connection_is_full_loses_nothing(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """The server is stopped, so that frames fill the buffers on the way to it, and goes on after the cancellation."""
    steps = 2**16
    server = start_server(tiny_models, tmp_path, BATON_MAX_FRAME_BYTES=str(8 * steps), BATON_MAX_STEPS=str(steps))
    chunk = np.resize(ROWS, (steps, 2))
    assert server.url is not None
    async with AsyncClient(server.url) as client, client.stream("stepper", binary=True) as stream:
        server.process.send_signal(signal.SIGSTOP)
        while not (sending := asyncio.create_task(stream.send(chunk))).done():
            done, _ = await asyncio.wait([sending], timeout=0.2)
            if not done:
                break
        assert stream.outstanding < MAX_OUTSTANDING, "the connection was not filled"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        server.process.send_signal(signal.SIGCONT)
        sent = stream.outstanding
        made = [await stream.recv() for _ in range(sent)]
        assert (await stream.step(ROWS[:1])).step == steps * sent + 1
    assert [output.step for output in made] == [steps * (n + 1) for n in range(sent)]


def once(broken: asyncio.Event) -> Callable[[], Cut]:
    """Break the first connection when `broken` is set, and no other."""

    def when_broken(seen: bytes) -> int | None:
        return len(seen) if broken.is_set() else None

    cuts = chain([when_broken], repeat(lambda seen: None))
    return lambda: next(cuts)


@pytest.mark.anyio
@pytest.mark.parametrize("gone", [False, True], ids=["another is newest", "it retires"])
async def test_a_session_without_a_checkpoint_goes_on_with_the_version_that_began_it(
    gone: bool, tmp_path: Path, start_server: ServerFactory
) -> None:
    first = tiny.stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state")
    expected = await asyncio.to_thread(whole, server)
    broken = asyncio.Event()
    async with (
        cutting_proxy(server, once(broken)) as url,
        AsyncClient(url) as client,
        client.stream("stepper") as stream,
    ):
        made = [await stream.step(row[None]) for row in ROWS[:3]]
        tiny.stepper(tmp_path / "models", version="2", seed=2)
        if gone:
            shutil.rmtree(first)
        start = server.mark()
        server.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(server.lines_since, start, until="models reloaded")
        broken.set()
        made += [await stream.step(row[None]) for row in ROWS[3:8]]
        assert (await client.step("stepper", ROWS[:1])).version == "2", "which answers new work"
    assert_each_once(made, expected[:8])


@pytest.mark.anyio
@pytest.mark.parametrize("checkpoint_every", [2, 100], ids=["after a checkpoint", "before the first"])
async def test_a_stream_that_was_opened_with_a_version_is_opened_again(server: Server, checkpoint_every: int) -> None:
    expected, broken = await asyncio.to_thread(whole, server), asyncio.Event()
    async with (
        cutting_proxy(server, once(broken)) as url,
        AsyncClient(url) as client,
        client.stream("stepper", version="1", checkpoint_every=checkpoint_every) as stream,
    ):
        made = [await stream.step(row[None]) for row in ROWS[:3]]
        broken.set()
        made += [await stream.step(row[None]) for row in ROWS[3:6]]
    assert_each_once(made, expected[:6])


@pytest.mark.anyio
async def test_what_was_interrupted_before_a_checkpoint_goes_on_with_its_version(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny.stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state")
    expected = await asyncio.to_thread(whole, server)
    async with AsyncClient(server.url, timeout=0.2) as client, client.stream("stepper") as stream:
        made = [await stream.step(row[None]) for row in ROWS[:3]]
        server.kill()
        with pytest.raises(StreamInterrupted) as interrupted:
            await stream.step(ROWS[3:4])
    tiny.stepper(tmp_path / "models", version="2", seed=2)
    server.start()
    kept = interrupted.value
    assert (kept.state, kept.version, kept.answered) == (None, "1", 3)
    async with AsyncClient(server.url) as client, client.stream("stepper", version=kept.version) as stream:
        again = [output async for output in stream.map(kept.unacknowledged)]
        assert_each_once(made + again[kept.answered :], expected[:4])
        assert (await client.step("stepper", ROWS[:1])).version == "2", "which answers new work"
