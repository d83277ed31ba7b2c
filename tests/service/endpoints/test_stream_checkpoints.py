"""Checkpoints that cannot be made as they should be: what goes out instead, and that no session is lost for it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import RedisServer, Server, ServerFactory
from streams import CLOSE, Stream, random_rows, whole

ROWS = random_rows(31, 12)
FLOATS = 2**18  # a state of 1 MiB, the largest that a token carries by default
BEYOND_HALVES = [70_000.0]
NOT_TEXT = b"\x81\x81" + bytes(4) + b"\xff"  # text that is not UTF-8: the service ends the stream


def wide(root: Path) -> Path:
    """A model that adds each number to all of a large state, and shows the state's first."""
    build = tiny.GraphBuilder(lengths="")
    (h,) = build.add("Add", ["h", "x"])
    first, one = (build.constant(np.array([value], np.int64)) for value in (0, 1))
    (y,) = build.add("Slice", [h, first, one, one])
    tiny.write_model(
        root,
        build,
        {"y": y, "h_out": h},
        name="wide",
        task="step",
        streamable=True,
        lengths=None,
        inputs=[tiny.tensor("x", "float32", "batch", 1)],
        outputs=[tiny.tensor("y", "float32", "batch", 1)],
        states=[tiny.state("h", "batch", FLOATS)],
    )
    return root


def total(stream: Stream, values: list[float]) -> list[float]:
    return stream.ask(values=values)["outputs"]["total"]


def broken_off(stream: Stream) -> tuple[list[dict[str, Any]], int]:
    """Have the service end the stream; return what it says last."""
    stream.connection.socket.sendall(NOT_TEXT)
    return stream.end()


def assert_goes_on(server: Server, last: dict[str, Any], done: int) -> None:
    """Check that the session of a checkpoint is the one of `ROWS`."""
    assert (last["type"], last["step"]) == ("checkpoint", done)
    with Stream(server, state=last["state"], hold="client", **{"return": "all"}) as stream:
        np.testing.assert_allclose(stream.step(ROWS[done:]), whole(server, ROWS)[done:], atol=CLOSE)


def test_the_largest_token_that_a_stream_hands_out_opens_another(tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(wide(tmp_path / "models"), tmp_path / "state")
    with Stream(server, "wide") as stream:
        assert stream.step(np.array([1], "<f4"), width=1).tolist() == [[1.0]]
        state = stream.ask(checkpoint=True)["state"]
    assert len(state) > 2**20
    with Stream(server, "wide", state=state) as stream:
        assert stream.opened["step"] == 1
        assert stream.step(np.array([2], "<f4"), width=1).tolist() == [[3.0]]
        stream.connection.send(bytes(2**20 + 4))
        (last,), code = stream.end()
    assert (code, last["step"]) == (1009, 2)
    with Stream(server, first=" " * (2**20 + len(state) + 1)) as stream:
        assert stream.end() == ([], 1009)


def test_a_wanted_checkpoint_beyond_float16_is_refused_in_its_place_and_the_stream_goes_on(server: Server) -> None:
    with Stream(server, "numbers", precision="float16") as stream:
        assert total(stream, BEYOND_HALVES) == BEYOND_HALVES
        alone = stream.ask(checkpoint=True)
        assert (alone["type"], alone["error"]["code"], alone["step"]) == ("error", "precision_too_low", 1)
        stream.send(values=[1], checkpoint=True)
        assert stream.frame()["outputs"]["total"] == [140_001.0]
        behind = stream.frame()
        assert (behind["type"], behind["error"]["code"], behind["step"]) == ("error", "precision_too_low", 2)
        assert total(stream, [0]) == [280_002.0]


def test_a_checkpoint_of_its_own_that_is_beyond_float16_is_exact(server: Server) -> None:
    with Stream(server, "numbers", precision="float16", checkpoint_every=2) as stream:
        assert total(stream, [1, 2]) == [4.0]
        halved = stream.frame()
        assert total(stream, [*BEYOND_HALVES, 0.125]) == [140_016.125]
        due = stream.frame()
        assert total(stream, [0.25]) == [280_032.5]
        (last,), code = broken_off(stream)
    assert (due["type"], due["step"], last["type"], last["step"], code) == ("checkpoint", 4, "checkpoint", 5, 1007)
    assert len(halved["state"]) < len(due["state"])
    for taken, expected in ((due, 280_032.5), (last, 560_065.25)):
        with Stream(server, "numbers", state=taken["state"]) as stream:
            assert total(stream, [0.25]) == pytest.approx([expected], rel=1e-6)


def test_without_its_store_a_stream_goes_on_and_hands_out_what_is_due_once_the_store_is_back(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STORE=redis_server.url)
    with Stream(server, hold="server", checkpoint_every=2) as stream:
        redis_server.stop()
        stream.step(ROWS[:3])
        alone = stream.ask(checkpoint=True)
        assert (alone["type"], alone["error"]["code"], alone["step"]) == ("error", "store_unavailable", 3)
        stream.send(inputs=ROWS[3:4].tolist(), checkpoint=True)
        assert stream.frame()["step"] == 4
        assert stream.frame()["error"]["code"] == "store_unavailable"
        redis_server.start()
        stream.step(ROWS[4:5])
        due = stream.frame()
        assert due["held"]
    assert_goes_on(server, due, 5)


def test_without_its_store_a_last_checkpoint_carries_the_state_where_a_token_can(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STORE=redis_server.url)
    cramped = start_server(tiny_models, tmp_path, BATON_STORE=redis_server.url, BATON_MAX_STATE_BYTES="8")
    with Stream(server, hold="server") as stream, Stream(cramped) as lost:
        stream.step(ROWS[:5])
        lost.step(ROWS[:5])
        redis_server.stop()
        (last,), code = broken_off(stream)
        assert (code, "held" in last) == (1007, False)
        (told,), code = broken_off(lost)
        assert (code, told["type"], told["error"]["code"], told["step"]) == (1007, "error", "store_unavailable", 5)
    assert_goes_on(server, last, 5)


def test_a_stream_whose_version_has_ended_is_told_so_and_gets_no_token_that_has_expired(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    models = tmp_path / "models"
    first = tiny.stepper(models)
    server = start_server(models, tmp_path / "state", BATON_STATE_TTL_S="1")
    with Stream(server) as stream, Stream(server) as broken:
        stream.step(ROWS)
        broken.step(ROWS)
        tiny.stepper(models, version="2", seed=2)
        shutil.rmtree(first)
        start = server.mark()
        server.process.send_signal(signal.SIGHUP)
        server.lines_since(start, until="unloaded stepper 1")
        stream.send_rows(ROWS)
        for ended, code in ((stream.end(), 1008), (broken_off(broken), 1007)):
            (told,), closed = ended
            assert (closed, told["type"], told["error"]["code"], told["step"]) == (code, "error", "state_expired", 12)
            assert "has come to its end" in told["error"]["message"]
    assert "shutting down" not in json.dumps(server.lines)
