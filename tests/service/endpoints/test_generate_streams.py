"""Generation as server-sent events: joined they are the whole answer, and no run is made for a client that left."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_writers
from conftest import LOG_LIMIT_S, TOKEN_KEYS, Server, ServerFactory
from generating import ask, error_of, joined, one, read_events, same, stream

PROMPT = {"prompt": "abc de"}
ENDLESS = {"max_steps": 1_000_000}
WHOLE = {"max_steps": 10_000}


@pytest.fixture
def enduring(writer_models: Path, tmp_path: Path, start_server: ServerFactory) -> Server:
    """A service whose generations may take as long as a test wants."""
    return start_server(writer_models, tmp_path / "state", BATON_MAX_STEPS="1000000", BATON_TOKEN_KEYS=TOKEN_KEYS)


@pytest.mark.parametrize(
    "options",
    [{}, {"stop": ["gg", "e"]}, {"temperature": 0}, {"probabilities": True, "n": 3}, {"model": "ending", "n": 2}],
    ids=str,
)
def test_the_events_joined_are_the_whole_answer(writers: Server, options: dict[str, Any]) -> None:
    whole = ask(writers, PROMPT, {}, seed=3, max_steps=30, **options)
    events = stream(writers, PROMPT, {}, seed=3, max_steps=30, **options)
    for result in whole:
        for choice in result["choices"]:
            told = joined(events[:-1], result["index"], choice["choice"])
            assert same(told, choice)
            assert told.get("probabilities") == choice.get("probabilities")
    assert events[-1].keys() == {"model", "version", "summary", "usage", "timing_ms"}
    assert events[-1]["summary"] == {"ok": 2, "failed": 0}


def test_the_first_id_comes_alone_and_the_others_by_up_to_six(writers: Server) -> None:
    events = stream(writers, {"values": [1]}, model="ids-alone", seed=3, max_steps=13)
    assert [len(event["ids"]) for event in events[:-1]] == [1, 2, 4, 6]
    assert [one for event in events[:-1] for one in event["ids"]] == one(
        writers, {"values": [1]}, model="ids-alone", seed=3, max_steps=13
    )["ids"]


def test_a_character_of_several_ids_comes_in_one_event(writers: Server) -> None:
    events = stream(writers, {"prompt": "é"}, model="octets", seed=4, max_steps=60)
    assert (
        "".join(event["text"] for event in events[:-1])
        == one(writers, {"prompt": "é"}, model="octets", seed=4, max_steps=60)["text"]
    )


def test_an_event_is_a_line_for_clients_that_end_lines_at_more_than_line_feeds(writers: Server) -> None:
    """As that of httpx does, which the tests read events with."""
    body = {"model": "separators", "max_steps": 40, "seed": 1}
    text = one(writers, {}, **body)["text"]
    assert {*"\u2028\u2029\x85"} <= {*text}
    *told, _ = stream(writers, {}, **body)
    assert joined(told)["text"] == text


def test_a_state_comes_with_every_so_many_steps_and_goes_on_from_there(writers: Server) -> None:
    events = stream(writers, PROMPT, seed=3, max_steps=10, state_every=4)[:-1]
    assert [event["step"] for event in events if "state" in event] == [10, 14, 16]
    whole = "".join(event["text"] for event in events)
    first = next(event["state"] for event in events if "state" in event)
    assert one(writers, {"state": first}, seed=3, max_steps=6)["text"] == whole[4:]


def test_the_server_holds_no_states_on_the_way(
    writers: Server, writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Neither where it is asked to, nor where they came so, nor where no token may carry them; the last it does."""
    held = one(writers, PROMPT, max_steps=1, hold="server")["state"]
    small = start_server(writer_models, tmp_path, BATON_MAX_STATE_BYTES="1")
    body = {"model": "generator", "stream": True, "state_every": 2}
    for server, more in (
        (writers, {"items": [PROMPT], "hold": "server"}),
        (writers, {"items": [{"state": held}]}),
        (small, {"items": [PROMPT]}),
    ):
        refused = server.post("/v1/generate", {**body, **more})
        assert error_of(refused) == (422, "invalid_request", "state_every")
    in_tokens = stream(writers, {"state": held}, state_every=2, max_steps=4, hold="client")[:-1]
    assert ["held" in event for event in in_tokens if "state" in event] == [False, False]


@pytest.mark.parametrize(("model", "stop"), [("generator", ["abcdefg", "ddd", "gga"]), ("octets", [])])
def test_a_state_waits_until_the_text_before_it_is_told(writers: Server, model: str, stop: list[str]) -> None:
    """So what it writes on is all that is missing."""
    options: dict[str, Any] = {"model": model, "seed": 5, "stop": stop}
    *events, last = stream(writers, {"prompt": "a"}, max_steps=40, state_every=1, **options)[:-1]
    states = [event for event in events if "state" in event]
    assert 0 < len(states) < last["steps"] - 1
    whole = "".join(event["text"] for event in (*events, last))
    for state in states:
        told = "".join(event["text"] for event in events[: events.index(state) + 1])
        rest = one(writers, {"state": state["state"]}, max_steps=last["step"] - state["step"], **options)
        assert told + rest["text"] == whole


def test_an_item_s_error_is_an_event_and_the_others_are_written(writers: Server) -> None:
    items = [{"id": "a", "values": [1]}, {"id": "b", **PROMPT}, {"id": "c", "prompt": 1}, {"state": "AAAA"}]
    events = stream(writers, *items, seed=3, max_steps=3)
    errors = {event["index"]: event for event in events if "error" in event}
    assert {index: (error["id"], error["error"]["field"]) for index, error in errors.items()} == {
        0: ("a", "items[0].values"),
        2: ("c", "items[2].prompt"),
        3: (None, "items[3].state"),
    }
    assert joined(events[:-1], 1)["finish"] == "length"
    assert events[-1]["summary"] == {"ok": 1, "failed": 3}


def test_what_fails_before_it_begins_is_answered_as_always(writers: Server) -> None:
    body = {"model": "generator", "items": [{"values": [1]}], "stream": True}
    assert error_of(writers.post("/v1/generate", body)) == (422, "invalid_request", "items[0].values")
    assert error_of(writers.post("/v1/generate", {**body, "model": "nonesuch"})) == (404, "unknown_model", "model")


def test_a_stream_leaves_its_line_its_count_and_its_time(writers: Server) -> None:
    mark = writers.mark()
    label = ("endpoint", "/v1/generate")
    before = writers.metric("baton_first_event_seconds_count", *label)
    stream(writers, PROMPT, {"values": [1]}, max_steps=3)
    (line,) = [line for line in writers.lines_since(mark, "POST /v1/generate") if "POST /v1/generate" in line]
    assert "200" in line
    assert line.endswith("items=2 failed=1 invalid_request*1")
    assert writers.metric("baton_first_event_seconds_count", *label) == before + 1


def runs(server: Server) -> float:
    return server.metric("baton_batch_rows_count", "model", "generator")


def request(server: Server, body: dict[str, Any]) -> socket.socket:
    """Send a request, and return its connection."""
    content = json.dumps({"model": "generator", "items": [PROMPT], **ENDLESS, **body}).encode()
    head = f"POST /v1/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    connection = socket.create_connection(server.address)
    connection.sendall(head.encode() + b"\r\n\r\n" + content)
    return connection


def wait_for_ids(server: Server, count: int) -> None:
    """Ask until so many ids were drawn."""
    deadline = time.monotonic() + LOG_LIMIT_S
    while server.metric("baton_generated_steps_total", "model", "generator") <= count:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("streams", [True, False])
def test_no_run_is_made_for_a_client_that_left(enduring: Server, streams: bool) -> None:
    mark = enduring.mark()
    connection = request(enduring, {"n": 3, **({"stream": True} if streams else WHOLE)})
    wait_for_ids(enduring, 30)
    assert enduring.metric("baton_generations") == 1
    connection.close()
    (line,) = [one for one in enduring.lines_since(mark, "POST /v1/generate") if "/v1/generate" in one]
    assert " 499 " in line
    made = runs(enduring)
    one(enduring, PROMPT, max_steps=3)
    assert runs(enduring) == made + 3  # of the prompt, of an id, and of two
    assert enduring.metric("baton_generations") == 0


def test_a_client_that_does_not_read_holds_up_nobody_and_is_cut_off(
    writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """What it has not read fills its connection; then it is waited for, and given up."""
    server = start_server(writer_models, tmp_path, BATON_MAX_STEPS="1000000", BATON_STREAM_IDLE_S="1")
    mark = server.mark()
    with request(server, {"stream": True, "n": 64, "probabilities": True}):
        wait_for_ids(server, 64)
        assert one(server, PROMPT, max_steps=3)["steps"] == 3
        server.lines_since(mark, " 499 ")
        assert server.metric("baton_generations") == 0
        made = runs(server)
        one(server, PROMPT, max_steps=3)
        assert runs(server) == made + 3


def test_a_stream_ends_with_its_state_when_the_service_shuts_down(
    enduring: Server, writer_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """And goes on from it elsewhere, as if it had never stopped."""
    body = {"model": "generator", "items": [PROMPT], "seed": 6, "n": 2, "stream": True, **ENDLESS}
    with enduring.client.stream("POST", "/v1/generate", json=body) as answer:
        lines = answer.iter_lines()
        first = [next(lines) for _ in range(20)]
        enduring.process.send_signal(signal.SIGTERM)
        events = read_events([*first, *lines])
    enduring.stop()
    *told, last = events
    assert last["summary"] == {"ok": 0, "failed": 1}
    (error,) = [event for event in told if "error" in event]
    assert (error["index"], error["error"]["code"], error["error"]["field"]) == (0, "draining", "items[0]")
    other = start_server(writer_models, tmp_path / "other", BATON_TOKEN_KEYS=TOKEN_KEYS)
    for number in range(2):
        begun = joined([event for event in told if "choice" in event], choice=number)
        assert begun["finish"] == "error"
        rest = one(other, {"state": begun["state"]}, seed=6 + number, max_steps=20)
        whole = one(other, PROMPT, seed=6 + number, max_steps=4096)["text"]
        assert len(begun["text"]) == begun["steps"]
        expected = whole[: begun["steps"] + 20]
        assert (begun["text"] + rest["text"])[: len(expected)] == expected


def test_a_whole_answer_tells_what_there_is_when_the_service_shuts_down(enduring: Server) -> None:
    connection = request(enduring, {"seed": 6, **WHOLE})
    wait_for_ids(enduring, 10)
    enduring.process.send_signal(signal.SIGTERM)
    with connection, connection.makefile("rb") as reader:
        answer = reader.read()
    assert answer.startswith(b"HTTP/1.1 503 ")
    content = json.loads(answer.partition(b"\r\n\r\n")[2])
    (result,) = content["results"]
    (choice,) = result["choices"]
    assert content["error"]["code"] == result["error"]["code"] == "draining"
    assert choice["finish"] == "error"
    assert len(choice["text"]) == choice["steps"] > 10
    assert choice["state"]
    enduring.stop()


def test_a_version_that_ends_ends_its_own_choices_alone(tmp_path: Path, start_server: ServerFactory) -> None:
    """It retires while it generates beside a newer version, which goes on."""
    models = tmp_path / "models"
    old = tiny_writers.generator(models)
    server = start_server(models, tmp_path / "state", BATON_STATE_TTL_S="3", BATON_MAX_STEPS="1000000")
    tiny_writers.generator(models, version="2")
    shutil.rmtree(old)
    begun = one(server, PROMPT, max_steps=1)
    mark = server.mark()
    server.process.send_signal(signal.SIGHUP)
    server.lines_since(mark, until="models reloaded")
    items = [{"state": begun["state"]}, PROMPT]
    body = {"model": "generator", "items": items, "n": 2, "seed": 6, "stream": True, **ENDLESS}
    with server.client.stream("POST", "/v1/generate", json=body) as answer:
        events = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line)
        ended = []
        while not (ended and "error" in ended[-1]):
            event = next(events)
            ended += [event] if event["index"] == 0 and ("finish" in event or "error" in event) else []
        after = [next(events) for _ in range(4)]
    assert {event["finish"] for event in ended if "finish" in event} == {"error"}
    assert (ended[-1]["error"]["code"], ended[-1]["error"]["field"]) == ("state_expired", "items[0].state")
    assert all("finish" not in event for event in after if event["index"] == 1)
    assert [event["choice"] for event in after if event["index"] == 1]
