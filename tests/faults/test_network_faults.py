"""Connections that break anywhere, requests that come twice or late, and proxies that close what is idle."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from conftest import Server
from held import go_on, sequence_step, sequence_total
from middleman import Middleman, middleman
from oip import tensor
from raw_streams import RawStream, masked
from streams import CLOSE, Stream, eventually, random_rows, whole

from baton_client import Client

ROWS = random_rows(41, 12)
RESET = struct.pack("ii", 1, 0)
SEQUENCE_PATH = "/v2/models/numbers/infer"
STEP_OF_CUT = {"inputs": [tensor("x", "FP32", [[1.0]])], "parameters": {"sequence_id": "cut"}}
IDLE_S = 0.2  # in place of a proxy's 10 s


@pytest.fixture
def way(server: Server) -> Iterator[Middleman]:
    """The way from clients to the service."""
    with middleman(server.address) as proxy:
        yield proxy


def outputs(answer: httpx.Response) -> list[float]:
    (result,) = answer.raise_for_status().json()["results"]
    made: list[float] = result["outputs"]["y"]
    return made


@pytest.mark.parametrize("kept", [1, 5, 20])
@pytest.mark.parametrize("reset", [False, True])
def test_a_stream_that_is_cut_in_mid_frame_goes_on_from_its_checkpoint(server: Server, kept: int, reset: bool) -> None:
    start, expected = server.mark(), whole(server, ROWS)
    with Stream(server, **{"return": "all"}) as stream:
        stream.step(ROWS[:5])
        state = stream.ask(checkpoint=True)["state"]
    with RawStream(server) as cut:
        cut.socket.sendall(masked(ROWS[:5].tobytes()))
        cut.read()
        if reset:
            cut.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        cut.socket.sendall(masked(ROWS[5:].tobytes())[:kept])
    eventually(lambda: server.metric("baton_streams") == 0)
    with Stream(server, state=state, **{"return": "all"}) as stream:
        np.testing.assert_allclose(stream.step(ROWS[5:]), expected[5:], atol=CLOSE)
    assert not [line for line in server.lines[start:] if " ERROR " in line or " WARNING " in line]


def test_a_sequence_s_step_that_is_cut_on_its_way_is_not_taken(server: Server) -> None:
    assert sequence_total(server.client, "cut", start=True) == 1
    request = server.client.build_request("POST", SEQUENCE_PATH, json=STEP_OF_CUT)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join([f"POST {SEQUENCE_PATH} HTTP/1.1", *lines, "", ""]).encode()
    start = server.mark()
    for size in (len(head) // 2, len(head), len(head) + len(request.content) - 1):
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall((head + request.content)[:size])
    server.lines_since(start, until="POST /v2/models/numbers/infer")
    assert sequence_total(server.client, "cut") == 3


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_step_whose_answer_is_cut_is_taken_again_to_the_same_end(server: Server, way: Middleman, cut: int) -> None:
    expected = whole(server, ROWS[:1])[-1]
    way.cuts = [cut, cut]
    with Client(way.url) as client:
        assert client.step("stepper", ROWS[:1]).outputs["y"] == pytest.approx(expected, abs=CLOSE)
    assert way.cuts == []


def test_a_sequence_s_step_whose_answer_is_cut_was_taken(server: Server, way: Middleman) -> None:
    """So to send it again is to take another: who cannot bear that carries tokens."""
    assert sequence_total(server.client, "deaf", start=True) == 1
    way.cuts = [10]
    with httpx.Client(base_url=way.url) as client:
        with pytest.raises(httpx.TransportError):
            sequence_step(client, "deaf")
        assert sequence_total(client, "deaf") == 7


def test_requests_that_come_twice_have_one_answer_by_token_and_are_two_steps_of_a_sequence(server: Server) -> None:
    state = go_on(server.client, None).json()["results"][0]["state"]
    assert sequence_total(server.client, "twice", start=True) == 1
    with ThreadPoolExecutor(2) as senders:
        answers = list(senders.map(lambda _: outputs(go_on(server.client, state)), range(2)))
        totals = list(senders.map(lambda _: sequence_total(server.client, "twice"), range(2)))
    assert answers[0] == pytest.approx(answers[1], abs=CLOSE)
    assert sorted(totals) == [3, 7]


def test_a_request_that_is_overtaken_has_the_same_answer_by_token_and_not_in_a_sequence(
    server: Server, way: Middleman
) -> None:
    state = go_on(server.client, None).json()["results"][0]["state"]
    in_order = [outputs(go_on(server.client, state, row)) for row in ((1, 2), (3, 4))]
    assert sequence_total(server.client, "late", start=True) == 1
    with httpx.Client(base_url=way.url, timeout=30) as late, ThreadPoolExecutor(2) as senders:
        way.hold_back()
        first = senders.submit(go_on, late, state, (1, 2))
        assert outputs(go_on(server.client, state, (3, 4))) == pytest.approx(in_order[1], abs=CLOSE)
        way.let_go()
        assert outputs(first.result()) == pytest.approx(in_order[0], abs=CLOSE)
        way.hold_back()
        overtaken = senders.submit(sequence_total, late, "late", 10)
        assert sequence_total(server.client, "late", 20) == 22
        way.let_go()
        assert overtaken.result() == 54


def test_a_proxy_that_closes_what_is_idle_costs_no_call_and_no_output(server: Server, way: Middleman) -> None:
    expected = whole(server, ROWS)
    way.idle_s = IDLE_S
    with Client(way.url) as client:
        state, made = None, []
        for row in ROWS[:3]:
            result = client.step("stepper", row[None], **({"state": state} if state else {}))
            state, before = result.state, way.ended
            made.append(result.outputs["y"])
            eventually(lambda before=before: way.ended > before)
        with client.stream("stepper", state=state, checkpoint_every=2) as stream:
            for row in ROWS[3:9]:
                made.append(stream.step(row[None]).outputs["y"])
                before = way.ended
                if len(made) % 2:
                    eventually(lambda before=before: way.ended > before)
    np.testing.assert_allclose(made, expected[:9], atol=CLOSE)
    eventually(lambda: server.metric("baton_streams") == 0)
