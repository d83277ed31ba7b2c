"""The client's streams against real servers that die, drain and are cut off: every output once, in order."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from clocks import stopped_clock
from conftest import TOKEN_KEYS, Server, ServerFactory, free_port

from baton_client import ApiError, AsyncClient, Client, StepOutput, StreamInterrupted
from baton_client.async_stream import MAX_OUTSTANDING

CLOSE = 1e-5  # batching and chunking change float32 sums only in their order
ROWS = np.random.default_rng(5).normal(size=(300, 2)).astype(np.float32)
CHECKPOINT = b'{"type":"checkpoint"'
FRAME_HEAD = 4  # bytes before a frame of 126 to 65,535


def whole(server: Server, rows: np.ndarray = ROWS) -> np.ndarray:
    assert server.url is not None
    with Client(server.url) as client:
        return client.step("stepper", rows, returns="all").outputs["y"]


def assert_each_once(found: Sequence[StepOutput], expected: np.ndarray) -> None:
    """Hold that the outputs are those of one step each, none lost, none doubled."""
    assert [output.step for output in found] == list(range(1, len(expected) + 1))
    np.testing.assert_allclose([output.outputs["y"] for output in found], expected, atol=CLOSE)


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


@pytest.fixture(scope="module")
def narrow(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that takes frames of a kilobyte at most, the opening with its token, too."""
    limits = {"BATON_MAX_FRAME_BYTES": "1024", "BATON_MAX_STATE_BYTES": "64"}
    running = Server(tiny_models, tmp_path_factory.mktemp("narrow"), **limits)
    yield running
    running.stop()


def urls(*servers: Server) -> list[str]:
    return [server.url for server in servers if server.url is not None]


@pytest.mark.parametrize("binary", [False, True])
def test_steps_give_what_one_request_gives(server: Server, binary: bool) -> None:
    with Client(urls(server)) as client, client.stream("stepper", binary=binary) as stream:
        assert_each_once([stream.step(row[None]) for row in ROWS[:20]], whole(server, ROWS[:20]))


@pytest.mark.parametrize("binary", [False, True])
def test_all_outputs_of_several_steps_per_input(server: Server, binary: bool) -> None:
    with Client(urls(server)) as client, client.stream("stepper", returns="all", binary=binary) as stream:
        chunks = list(stream.map(np.split(ROWS[:60], [1, 8, 30])))
        assert [chunk.step for chunk in chunks] == [1, 8, 30, 60]
        made = np.concatenate([chunk.outputs["y"] for chunk in chunks])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, whole(server, ROWS[:60]), atol=CLOSE)


def test_texts_and_numbers_are_inputs_too(server: Server) -> None:
    with Client(urls(server)) as client:
        with client.stream("reader") as stream:
            assert stream.step("a good film").tokens == ["a", "good", "film"]
        with client.stream("numbers") as stream:
            assert stream.step([1.0, 2.0]).step == 2
        with pytest.raises(ApiError, match="unknown_model"), client.stream("counter"):
            pass


def test_a_checkpoint_goes_on_in_another_stream_and_over_http(server: Server) -> None:
    expected = whole(server, ROWS[:30])
    with Client(urls(server)) as client:
        with client.stream("stepper") as stream:
            first = [stream.step(row[None]) for row in ROWS[:10]]
            token = stream.checkpoint()
            assert (stream.state, stream.step_count, stream.unacknowledged) == (token, 10, [])
        with client.stream("stepper", state=token) as stream:
            assert_each_once(first + list(stream.map(ROWS[10:30, None])), expected)
        assert client.step("stepper", ROWS[10:30], state=token).outputs["y"] == pytest.approx(expected[-1], abs=CLOSE)


def test_a_checkpoint_can_be_asked_for_while_outputs_are_under_way(server: Server) -> None:
    with Client(urls(server)) as client, client.stream("stepper", checkpoint_every=3) as stream:
        for row in ROWS[:7]:
            stream.send(row[None])
        stream.checkpoint()
        assert stream.step_count == 7
        assert_each_once([stream.recv() for _ in range(7)], whole(server, ROWS[:7]))


def test_checkpoints_bound_what_is_kept(server: Server) -> None:
    with Client(urls(server)) as client, client.stream("stepper", checkpoint_every=10) as stream:
        for _ in stream.map(ROWS[:, None]):
            assert len(stream.unacknowledged) <= 10 + 32


def test_an_input_that_is_refused_raises_in_its_place_and_the_stream_goes_on(server: Server) -> None:
    good = ROWS[:2, None]
    with Client(urls(server)) as client, client.stream("stepper") as stream:
        for inputs in (good[0], [[1.0, 2.0, 3.0]], good[1]):
            stream.send(inputs)
        outputs = [stream.recv()]
        with pytest.raises(ApiError) as refused:
            stream.recv()
        assert (refused.value.code, refused.value.field) == ("ragged_inputs", "inputs[0]")
        assert_each_once([*outputs, stream.recv()], whole(server, ROWS[:2]))
        with pytest.raises(RuntimeError, match="nothing to receive"):
            stream.recv()


def test_frames_over_the_limit_are_refused_alone(narrow: Server) -> None:
    with Client(urls(narrow)) as client, client.stream("stepper", binary=True, checkpoint_every=5) as stream:
        for inputs in (ROWS[:8], ROWS[:150], ROWS[8:9], ROWS[:200]):
            stream.send(inputs)
        assert stream.recv().step == 8
        with pytest.raises(ApiError, match="1200 bytes"):
            stream.recv()
        last = stream.recv()
        with pytest.raises(ApiError, match="item_too_large: a frame of 1600 bytes"):
            stream.recv()
    assert last.step == 9
    np.testing.assert_allclose(last.outputs["y"], whole(narrow, ROWS[:9])[-1], atol=CLOSE)


def test_a_checkpoint_before_the_first_step_is_refused(server: Server) -> None:
    with Client(urls(server)) as client, client.stream("stepper") as stream:
        with pytest.raises(ApiError, match="no step yet"):
            stream.checkpoint()
        assert stream.step(ROWS[:1]).step == 1


@pytest.mark.anyio
async def test_a_stream_waits_for_room(server: Server) -> None:
    """With nobody to receive, it says so in the end."""
    expected = await asyncio.to_thread(whole, server, ROWS[:32])
    with stopped_clock() as clock:
        async with AsyncClient(urls(server), timeout=60) as client, client.stream("stepper") as stream:
            for row in ROWS[:32]:
                await stream.send(row[None])
            sending = asyncio.create_task(stream.send(ROWS[:1]))
            await asyncio.sleep(0)
            clock.go_on(60)
            with pytest.raises(TimeoutError, match="32 outputs wait"):
                await sending
            assert_each_once([await stream.recv() for _ in range(32)], expected)


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


def test_a_state_that_cannot_be_used_raises_and_begins_nothing(server: Server) -> None:
    with Client(urls(server)) as client:
        with pytest.raises(ApiError) as refused, client.stream("stepper", state="junk"):
            pass
        assert (refused.value.code, refused.value.status) == ("state_invalid", 422)
        with pytest.raises(ValueError, match="NEW"):
            client.stream("stepper", state=None)


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


@pytest.mark.parametrize("inputs", [[[1.0, 2.0, 3.0, 4.0]], [1.0, 2.0, 3.0, 4.0], [[1.0], [2.0]]])
def test_binary_inputs_that_are_no_whole_steps_are_refused_before_they_are_sent(server: Server, inputs: object) -> None:
    """Their bytes could be read as steps, of other values than were meant."""
    with Client(urls(server)) as client, client.stream("stepper", binary=True) as stream:
        stream.step(ROWS[:1])
        with pytest.raises(ValueError, match=r"takes \(k, 2\)"):
            stream.step(inputs)
        assert (stream.outstanding, len(stream.unacknowledged)) == (0, 1)
        assert stream.step(ROWS[1:3]).step == 3
        stream.checkpoint()
        assert stream.step_count == 3


def test_binary_numbers_are_given_with_or_without_their_axis(server: Server) -> None:
    with Client(urls(server)) as client, client.stream("numbers", binary=True) as stream:
        stream.step([1.0, 2.0])
        made = stream.step([[3.0], [4.0]])
        assert made.outputs["total"] == pytest.approx(client.step("numbers", [1.0, 2.0, 3.0, 4.0]).outputs["total"])
        with pytest.raises(ValueError, match="k numbers"):
            stream.step([[5.0, 6.0]])
        assert stream.step([7.0]).step == 5


def test_a_stream_that_was_not_entered_takes_no_inputs(server: Server) -> None:
    with Client(urls(server)) as client, pytest.raises(RuntimeError, match="not entered"):
        client.stream("stepper").send(ROWS[:1])


def test_an_opening_over_the_limit_is_refused_at_once(narrow: Server) -> None:
    closed = narrow.metric("baton_streams_closed_total", "code", "1009")
    with Client(urls(narrow)) as client, pytest.raises(ApiError, match="2000 of them the state") as refused:
        client.stream("stepper", state="x" * 2000).__enter__()
    assert (refused.value.code, refused.value.status, refused.value.field) == ("item_too_large", 413, "state")
    assert narrow.metric("baton_streams_closed_total", "code", "1009") == closed + 1


# -- a connection that breaks anywhere -------------------------------------------------------------------------------

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

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
async def test_many_tasks_share_a_client_and_a_stream_is_sent_and_received_by_two(server: Server) -> None:
    expected = await asyncio.to_thread(whole, server)

    async def session(client: AsyncClient) -> None:
        async with client.stream("stepper") as stream:
            sent = asyncio.Semaphore(0)

            async def send_all() -> None:
                for row in ROWS:
                    await stream.send(row[None])
                    sent.release()

            async def receive() -> StepOutput:
                await sent.acquire()
                return await stream.recv()

            async def receive_all() -> list[StepOutput]:
                return [await receive() for _ in ROWS]

            _, found = await asyncio.gather(send_all(), receive_all())
            assert_each_once(found, expected)

    assert server.url is not None
    async with AsyncClient(server.url) as client:
        await asyncio.gather(*(session(client) for _ in range(8)))


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


@pytest.mark.parametrize("inputs", ["a text", 1.0, np.zeros((1, 2, 2))])
def test_what_no_frame_can_hold_is_refused_before_it_is_sent(server: Server, inputs: object) -> None:
    with Client(urls(server)) as client, client.stream("stepper", binary=True) as stream:
        with pytest.raises(ValueError, match=r"takes numbers|give k rows"):
            stream.send(inputs)
        assert stream.step(ROWS[:1]).step == 1
