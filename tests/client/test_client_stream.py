"""The client's streams against a service that is well: outputs, checkpoints, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clocks import stopped_clock
from conftest import Server
from uninterrupted import CLOSE, ROWS, assert_each_once, urls, whole

from baton_client import ApiError, AsyncClient, Client, StepOutput


@pytest.fixture(scope="module")
def narrow(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that takes frames of a kilobyte at most, the opening with its token, too."""
    limits = {"BATON_MAX_FRAME_BYTES": "1024", "BATON_MAX_STATE_BYTES": "64"}
    running = Server(tiny_models, tmp_path_factory.mktemp("narrow"), **limits)
    yield running
    running.stop()


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


def test_a_state_that_cannot_be_used_raises_and_begins_nothing(server: Server) -> None:
    with Client(urls(server)) as client:
        with pytest.raises(ApiError) as refused, client.stream("stepper", state="junk"):
            pass
        assert (refused.value.code, refused.value.status) == ("state_invalid", 422)
        with pytest.raises(ValueError, match="NEW"):
            client.stream("stepper", state=None)


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


def test_a_step_is_not_taken_while_outputs_wait_to_be_received(server: Server) -> None:
    with Client(server.url or "") as client, client.stream("stepper") as stream:
        stream.send(ROWS[:1])
        with pytest.raises(RuntimeError, match="1 outputs wait to be received first"):
            stream.step(ROWS[1:2])
        assert stream.recv().step == 1
        assert stream.step(ROWS[1:2]).step == 2


def test_a_stream_that_was_not_entered_takes_no_inputs(server: Server) -> None:
    with Client(urls(server)) as client, pytest.raises(RuntimeError, match="not entered"):
        client.stream("stepper").send(ROWS[:1])


def test_an_opening_over_the_limit_is_refused_at_once(narrow: Server) -> None:
    closed = narrow.metric("baton_streams_closed_total", "code", "1009")
    with Client(urls(narrow)) as client, pytest.raises(ApiError, match="2000 of them the state") as refused:
        client.stream("stepper", state="x" * 2000).__enter__()
    assert (refused.value.code, refused.value.status, refused.value.field) == ("item_too_large", 413, "state")
    assert narrow.metric("baton_streams_closed_total", "code", "1009") == closed + 1


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


@pytest.mark.parametrize("inputs", ["a text", 1.0, np.zeros((1, 2, 2))])
def test_what_no_frame_can_hold_is_refused_before_it_is_sent(server: Server, inputs: object) -> None:
    with Client(urls(server)) as client, client.stream("stepper", binary=True) as stream:
        with pytest.raises(ValueError, match=r"takes numbers|give k rows"):
            stream.send(inputs)
        assert stream.step(ROWS[:1]).step == 1
