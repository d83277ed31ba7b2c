"""The client's streams against replicas that die, drain and are silent: every output once, in order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clocks import stopped_clock
from conftest import TOKEN_KEYS, Server, free_port
from uninterrupted import ROWS, assert_each_once, urls, whole

from baton_client import ApiError, AsyncClient, Client, StreamInterrupted


@pytest.fixture(scope="module")
def pair(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two services that open each other's tokens, on ports that they keep when started again."""
    one, other = (
        Server(tiny_models, tmp_path_factory.mktemp(name), BATON_TOKEN_KEYS=TOKEN_KEYS, BATON_PORT=str(free_port()))
        for name in ("one", "other")
    )
    yield one, other
    for server in (one, other):
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def replicas(pair: tuple[Server, Server]) -> tuple[Server, Server]:
    """The same two, started again where a test before ended them."""
    for server in pair:
        if server.process.poll() is not None:
            server.start()
    return pair


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("checkpoint_every", [7, 1000], ids=["checkpoints", "before the first checkpoint"])
def test_outputs_come_once_though_replicas_are_killed_and_drained(
    replicas: tuple[Server, Server], checkpoint_every: int, binary: bool
) -> None:
    one, other = replicas
    expected = whole(one)

    def inputs() -> Iterator[np.ndarray]:
        for index, row in enumerate(ROWS):
            if index == 60:
                one.kill()
            if index == 120:
                one.start()
                other.stop()
            if index == 200:
                other.start()
                one.kill()
            yield row[None]

    options = {"checkpoint_every": checkpoint_every, "binary": binary}
    with Client(urls(one, other)) as client, client.stream("stepper", **options) as stream:
        assert_each_once(list(stream.map(inputs())), expected)


@pytest.mark.anyio
async def test_a_stream_that_can_go_on_nowhere_keeps_what_it_has(replicas: tuple[Server, Server]) -> None:
    one, other = replicas
    expected = await asyncio.to_thread(whole, one, ROWS[:20])
    with stopped_clock():
        async with AsyncClient(urls(one), timeout=0.5) as client, client.stream("stepper") as stream:
            outputs = [await stream.step(row[None]) for row in ROWS[:5]]
            await stream.checkpoint()
            outputs += [await stream.step(row[None]) for row in ROWS[5:8]]
            one.kill()
            for row in ROWS[8:10]:
                await stream.send(row[None])
            with pytest.raises(StreamInterrupted) as interrupted:
                await stream.recv()
            lost = interrupted.value
            assert (lost.step_count, lost.answered) == (5, 3)
            np.testing.assert_array_equal(np.concatenate(lost.unacknowledged), ROWS[5:10])
            one.start()
            assert_each_once([*outputs, await stream.recv(), await stream.recv()], expected[:10])
    async with AsyncClient(urls(other)) as client, client.stream("stepper", state=lost.state) as stream:
        again = [output async for output in stream.map(lost.unacknowledged)]
    assert_each_once([*outputs, *again[lost.answered :]], expected[:10])


def test_a_stream_leaves_a_replica_that_is_silent(replicas: tuple[Server, Server]) -> None:
    one, other = replicas
    expected = whole(one, ROWS[:20])
    with Client(urls(one, other), timeout=6) as client, client.stream("stepper", checkpoint_every=4) as stream:
        made = list(stream.map(ROWS[:10, None]))
        one.process.send_signal(signal.SIGSTOP)
        made += list(stream.map(ROWS[10:20, None]))
    one.process.send_signal(signal.SIGCONT)
    assert_each_once(made, expected)


def test_a_replica_that_cannot_open_the_state_is_no_reason_to_begin_anew(
    replicas: tuple[Server, Server], server: Server
) -> None:
    frames = server.metric("baton_stream_frames_total")
    with Client(urls(replicas[0], server)) as client, client.stream("stepper") as stream:
        stream.step(ROWS[:5])
        token = stream.checkpoint()
        replicas[0].kill()
        with pytest.raises(ApiError, match="state_invalid"):
            stream.step(ROWS[5:6])
        assert (stream.state, stream.step_count, len(stream.unacknowledged)) == (token, 5, 1)
    assert server.metric("baton_stream_frames_total") == frames
