"""The client's streams against services that are slow, silent, or fail again and again at the same place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from clocks import Clock, stopped_clock
from sums import REFUSED, Sum
from websockets.asyncio.server import ServerConnection, serve

from baton_client import ApiError, AsyncClient, ProtocolError, StepOutput, StreamInterrupted

pytestmark = pytest.mark.anyio
INPUTS = 40
TOTALS = [n * (n + 1) / 2 for n in range(1, INPUTS + 1)]
TURNS = 10  # of the event loop; an answer is written in one, read in the next and heard in the third
Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def serving(*handlers: Handler, max_queue: int = 16) -> AsyncIterator[str]:
    """Give each connection to the next handler, and all those after it to the last.

    So many frames are read before a handler wants them.
    """
    left = list(handlers)

    async def handle(connection: ServerConnection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection)

    async with serve(handle, "127.0.0.1", 0, max_queue=max_queue) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def summing(frames: int | None = None, *, clock: Clock | None = None, fail_at: float | None = None) -> Handler:
    """Sum the inputs, for so many frames; by a clock each takes 0.1 s. At one of the inputs, fail."""

    async def handle(connection: ServerConnection) -> None:
        opening = await connection.recv()
        assert isinstance(opening, str)
        service, heard = Sum(opening), 0
        while True:
            while service.said:
                await connection.send(service.said.popleft())
            if heard == frames:
                connection.transport.abort()
                return
            frame = await connection.recv()
            heard += 1
            assert isinstance(frame, str)
            if json.loads(frame).get("values") == [fail_at]:
                service.checkpoint()
                service.refuse("internal", final=True)
                while service.said:
                    await connection.send(service.said.popleft())
                await connection.close(1011)
                return
            if clock is not None:
                for _ in range(TURNS):  # so that the answer before was heard at its own time
                    await asyncio.sleep(0)
                clock.go_on(0.1)
            service.heard.append(frame)
            service.serve()

    return handle


def silent(clock: Clock, seconds: float) -> Handler:
    """Say nothing for so long."""

    async def handle(connection: ServerConnection) -> None:
        await connection.recv()
        clock.go_on(seconds)
        await connection.wait_closed()

    return handle


def totals(outputs: list[StepOutput]) -> list[float]:
    return [float(output.outputs["sum"]) for output in outputs]


@pytest.mark.parametrize("lost_at", [None, 10, INPUTS - 1], ids=["at once", "early", "late"])
async def test_a_replay_that_takes_longer_than_the_timeout_gets_through(lost_at: int | None) -> None:
    """And a second one does that goes over what the first had done already."""
    with stopped_clock() as clock:
        slow = summing(clock=clock)  # 40 inputs take four times the timeout
        lost = [] if lost_at is None else [summing(lost_at, clock=clock)]
        async with (
            serving(summing(INPUTS - 1), *lost, slow) as url,
            AsyncClient(url, timeout=1) as client,
            client.stream("sum", checkpoint_every=10**6) as stream,
        ):
            made = [await stream.step([float(n)]) for n in range(1, INPUTS + 1)]
    assert totals(made) == TOTALS


async def test_connections_that_always_break_at_the_same_place_are_given_up() -> None:
    with stopped_clock():
        async with (
            serving(summing(5), summing(3)) as url,
            AsyncClient(url, timeout=0.2) as client,
            client.stream("sum") as stream,
        ):
            for n in range(1, 6):
                await stream.step([float(n)])
            with pytest.raises(StreamInterrupted) as interrupted:
                await stream.step([6.0])
    assert (len(interrupted.value.unacknowledged), interrupted.value.answered) == (6, 5)


async def test_a_replay_larger_than_all_buffers_is_sent_while_answers_are_read() -> None:
    """To send it takes longer than the timeout, as the service reads no faster than it sums."""
    rest = [1 / 3] * 25_000  # half a megabyte, of which only the first number is summed
    with stopped_clock() as clock:
        async with (
            serving(summing(INPUTS - 1), summing(clock=clock), max_queue=1) as url,
            AsyncClient(url, timeout=1) as client,
            client.stream("sum", checkpoint_every=10**6) as stream,
        ):
            made = [await stream.step([float(n), *rest]) for n in range(1, INPUTS + 1)]
    assert totals(made) == TOTALS


async def test_entering_leaves_a_replica_that_is_silent_after_the_handshake() -> None:
    with stopped_clock() as clock:
        async with (
            serving(silent(clock, 2)) as deaf,
            serving(summing()) as url,
            AsyncClient([deaf, url], timeout=6) as client,
            client.stream("sum") as stream,
        ):
            assert (await stream.step([1.0])).step == 1


async def test_entering_where_all_are_silent_is_given_up() -> None:
    with stopped_clock() as clock:
        async with serving(silent(clock, 30)) as deaf, AsyncClient(deaf) as client:
            with pytest.raises(StreamInterrupted, match=r"silent|nothing for"):
                await client.stream("sum").__aenter__()


async def test_a_state_too_large_for_the_next_replica_is_refused_at_once_and_nothing_is_lost() -> None:
    async def narrow(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.close(1009)

    async with (
        serving(summing(2), narrow) as url,
        AsyncClient(url) as client,
        client.stream("sum") as stream,
    ):
        await stream.step([1.0])
        token = await stream.checkpoint()
        with pytest.raises(ApiError, match=f"{len(token)} of them the state; that is more"):
            await stream.step([2.0])
        assert (stream.state, [one.tolist() for one in stream.unacknowledged]) == (token, [[2.0]])


async def test_an_input_that_fails_inside_the_service_is_tried_again_elsewhere() -> None:
    async with (
        serving(summing(fail_at=3.0), summing()) as url,
        AsyncClient(url) as client,
        client.stream("sum") as stream,
    ):
        assert totals([output async for output in stream.map([float(n)] for n in range(1, 6))]) == TOTALS[:5]


async def test_an_input_that_fails_again_is_the_caller_s_to_judge() -> None:
    """It is tried twice, then raised with its cause; nothing is lost, and the stream can be used again."""
    connections = 0

    async def failing(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await summing(fail_at=3.0)(connection)

    async with (
        serving(failing, failing, summing()) as url,
        AsyncClient(url) as client,
        client.stream("sum") as stream,
    ):
        for n in (1.0, 2.0, 3.0, 4.0):
            await stream.send([n])
        made = [await stream.recv(), await stream.recv()]
        with pytest.raises(StreamInterrupted, match="internal") as interrupted:
            await stream.recv()
        lost = interrupted.value
        assert isinstance(lost.__cause__, ApiError)
        assert (lost.__cause__.status, connections) == (500, 2)
        assert (lost.step_count, lost.answered, [one.tolist() for one in lost.unacknowledged]) == (2, 0, [[3.0], [4.0]])
        made += [await stream.recv(), await stream.recv()]
    assert totals(made) == TOTALS[:4]


async def test_a_checkpoint_that_is_refused_is_not_taken_for_a_refused_input() -> None:
    """Nor where the service has just sent one by itself: 3 is a sum that cannot be asked for as a token."""
    async with (
        serving(summing()) as url,
        AsyncClient(url) as client,
        client.stream("sum", checkpoint_every=2) as stream,
    ):
        await stream.send([1.0])
        await stream.send([2.0])
        asked = asyncio.create_task(stream.checkpoint())
        await asyncio.sleep(0)
        await stream.send([REFUSED])
        await stream.send([4.0])
        with pytest.raises(ApiError, match="precision_too_low"):
            await asked
        assert totals([await stream.recv(), await stream.recv()]) == [1.0, 3.0]
        with pytest.raises(ApiError, match="not_finite"):
            await stream.recv()
        assert totals([await stream.recv()]) == [7.0]
        assert (await stream.checkpoint(), stream.step_count) == (stream.state, 3)


async def test_a_checkpoint_for_which_there_is_no_store_is_refused_alone() -> None:
    async def storeless(connection: ServerConnection) -> None:
        opening = await connection.recv()
        assert isinstance(opening, str)
        service = Sum(opening)
        await connection.send(service.said.popleft())
        async for frame in connection:
            assert isinstance(frame, str)
            if "checkpoint" in frame:
                service.refuse("store_unavailable")
            else:
                service.heard.append(frame)
                service.serve()
            await connection.send(service.said.popleft())

    async with serving(storeless) as url, AsyncClient(url) as client, client.stream("sum", hold="server") as stream:
        await stream.step([1.0])
        with pytest.raises(ApiError, match="store_unavailable"):
            await stream.checkpoint()
        assert (await stream.step([2.0])).step == 2


async def test_a_session_does_not_go_on_with_steps_of_another_width() -> None:
    async def other(connection: ServerConnection) -> None:
        await connection.recv()
        shape = {"version": "1", "step": 0, "features": 2, "dtype": "float32", "outputs": []}
        await connection.send(json.dumps({"type": "open", **shape}))

    async with (
        serving(summing(1), other) as url,
        AsyncClient(url) as client,
        client.stream("sum") as stream,
    ):
        await stream.step([1.0])
        with pytest.raises(ProtocolError, match="go on as steps of 2"):
            await stream.step([2.0])


async def test_a_stream_that_is_closed_ends_who_waits_for_its_answers() -> None:
    asked = asyncio.Event()

    async def mute(connection: ServerConnection) -> None:
        opening = await connection.recv()
        assert isinstance(opening, str)
        await connection.send(Sum(opening).said.popleft())
        await connection.recv()
        asked.set()
        await connection.wait_closed()

    async with serving(mute) as url, AsyncClient(url) as client, client.stream("sum") as stream:
        await stream.send([1.0])
        waiting = asyncio.create_task(stream.recv())
        await asked.wait()
        await stream.close()
        with pytest.raises(RuntimeError, match="the stream is closed"):
            await waiting
        assert [inputs.tolist() for inputs in stream.unacknowledged] == [[1.0]]
