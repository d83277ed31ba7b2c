"""WS /v1/stream through a real server: the session is the same as over /v1/step, however it is cut into frames."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Server, ServerFactory
from streams import CLOSE, Stream, random_rows, whole

ROWS = random_rows(11, 12)
STEPPER = "stepper"


def step_on(server: Server, state: str, rows: np.ndarray) -> dict[str, Any]:
    """Take steps over /v1/step."""
    body = {"model": STEPPER, "items": [{"state": state, "inputs": rows.tolist()}], "return": "all"}
    (result,) = server.post("/v1/step", body).json()["results"]
    return result


def test_the_opening_answer_says_what_will_come(server: Server) -> None:
    with Stream(server) as stream:
        outputs = [{"name": "y", "dtype": "float32", "shape": [3]}]
        session = {"model": STEPPER, "version": "1", "step": 0}
        assert stream.opened == {"type": "open", **session, "features": 2, "dtype": "float32", "outputs": outputs}


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [2, 1, 6, 3], [12]])
@pytest.mark.parametrize("kinds", ["binary", "text", "mixed"])
def test_frames_of_any_kind_and_length_equal_the_whole(server: Server, cuts: list[int], kinds: str) -> None:
    made, done = [], 0
    with Stream(server, **{"return": "all"}) as stream:
        for number, cut in enumerate(cuts):
            rows = ROWS[done : done + cut]
            done += cut
            if kinds == "binary" or (kinds == "mixed" and number % 2):
                made.append(stream.step(rows))
            else:
                answer = stream.ask(inputs=rows.tolist())
                assert set(answer) == {"type", "step", "outputs"}
                assert (answer["type"], answer["step"]) == ("step", done)
                made.append(np.array(answer["outputs"]["y"]))
            assert len(made[-1]) == cut
    np.testing.assert_allclose(np.concatenate(made), whole(server, ROWS), atol=CLOSE)


def test_the_last_row_alone_is_answered_unless_all_are_asked_for(server: Server) -> None:
    expected = whole(server, ROWS)
    with Stream(server) as stream:
        np.testing.assert_allclose(stream.step(ROWS[:4]), expected[3:4], atol=CLOSE)
        answer = stream.ask(inputs=ROWS[4:9].tolist())
        np.testing.assert_allclose(answer["outputs"]["y"], expected[8], atol=CLOSE)


def test_frames_sent_without_waiting_are_answered_in_their_order(server: Server) -> None:
    rows = random_rows(5, 200)
    with Stream(server) as stream:
        for row in rows:
            stream.send_rows(row)
        made = np.concatenate([stream.floats() for _ in rows])
    np.testing.assert_allclose(made, whole(server, rows), atol=CLOSE)


def test_a_message_in_fragments_is_one_frame(server: Server) -> None:
    with Stream(server, **{"return": "all"}) as stream:
        data = ROWS.tobytes()
        stream.connection.send([data[:5], data[5:40], data[40:]])
        np.testing.assert_allclose(stream.floats(), whole(server, ROWS), atol=CLOSE)


def test_numbers_and_texts_are_taken_as_over_step(server: Server) -> None:
    with Stream(server, "numbers", **{"return": "all"}) as stream:
        assert stream.ask(values=[1, 2])["outputs"] == {"total": [[1.0], [4.0]]}
        assert stream.step(np.array([3], "<f4"), width=1).tolist() == [[11.0]]
    with Stream(server, "reader") as stream:
        answer = stream.ask(text="a good film")
        assert (answer["tokens"], answer["step"]) == (["a", "good", "film"], 3)
        scores = answer["outputs"]["scores"]
        body = {"model": "reader", "items": [{"text": "a good film"}]}
        (result,) = server.post("/v1/step", body).json()["results"]
        assert scores == pytest.approx(result["outputs"]["scores"], abs=CLOSE)


def two_outputs(root: Path) -> Path:
    """A model with outputs of unequal shapes for each step."""
    build = tiny.GraphBuilder(9)
    y, h = build.recurrent("GRU", "x", 2, 4, ["h"], linear_before_reset=1)
    (square,) = build.add("Reshape", [build.dense(y, 4, 4), build.constant(np.array([0, 0, 2, 2], np.int64))])
    made = {"square": square, "y": build.dense(y, 4, 3), "h_out": h}
    outputs = [
        tiny.tensor("square", "float32", "batch", "time", 2, 2),
        tiny.tensor("y", "float32", "batch", "time", 3),
    ]
    tiny.write_model(
        root,
        build,
        made,
        name="two",
        task="step",
        streamable=True,
        inputs=[tiny.tensor("x", "float32", "batch", "time", 2)],
        outputs=outputs,
        states=[tiny.state("h", 1, "batch", 4)],
    )
    return root


def test_binary_answers_hold_all_outputs_step_after_step(tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(two_outputs(tmp_path / "models"), tmp_path / "state")
    squares = whole(server, ROWS, "two", "square").reshape(len(ROWS), 4)
    expected = np.concatenate([squares, whole(server, ROWS, "two")], axis=1)
    with Stream(server, "two", **{"return": "all"}) as stream:
        assert [output["shape"] for output in stream.opened["outputs"]] == [[2, 2], [3]]
        np.testing.assert_allclose(stream.step(ROWS, width=7), expected, atol=CLOSE)
    with Stream(server, "two") as stream:
        np.testing.assert_allclose(stream.step(ROWS, width=7), expected[-1:], atol=CLOSE)


def test_a_checkpoint_on_demand_is_a_token_that_goes_on_anywhere(server: Server) -> None:
    expected = whole(server, ROWS)
    with Stream(server) as stream:
        stream.step(ROWS[:4])
        taken = stream.ask(checkpoint=True)
        assert (taken["type"], taken["step"]) == ("checkpoint", 4)
        assert taken["expires_at"].endswith("Z")
        stream.send(inputs=ROWS[4:6].tolist(), checkpoint=True)
        assert stream.frame()["type"] == "step"
        behind = stream.frame()
        assert (behind["type"], behind["step"]) == ("checkpoint", 6)
    over_step = step_on(server, taken["state"], ROWS[4:])
    np.testing.assert_allclose(over_step["outputs"]["y"], expected[4:], atol=CLOSE)
    with Stream(server, state=behind["state"], **{"return": "all"}) as stream:
        assert stream.opened["step"] == 6
        np.testing.assert_allclose(stream.step(ROWS[6:]), expected[6:], atol=CLOSE)
    with Stream(server, state=over_step["state"]) as stream:
        assert stream.opened["step"] == 12
        assert stream.ask(checkpoint=True)["step"] == 12


@pytest.mark.parametrize(
    ("cuts", "steps"), [([1] * 12, [5, 10]), ([3] * 4, [6, 12]), ([12], [12]), ([4, 1, 7], [5, 12])]
)
def test_checkpoints_come_by_themselves_every_n_steps(server: Server, cuts: list[int], steps: list[int]) -> None:
    expected: list[int | None] = []
    with Stream(server, checkpoint_every=5) as stream:
        done = 0
        for cut in cuts:
            stream.send_rows(ROWS[done : done + cut])
            done += cut
            expected += [None, done] if done in steps else [None]
        stream.send(checkpoint=True)
        received = [stream.connection.recv(timeout=30) for _ in [*expected, "on demand"]]
    came = [json.loads(frame)["step"] if isinstance(frame, str) else None for frame in received]
    assert came == [*expected, 12]


def test_a_checkpoint_before_the_first_step_is_refused(server: Server) -> None:
    with Stream(server) as stream:
        answer = stream.ask(checkpoint=True)
        assert (answer["type"], answer["error"]["code"]) == ("error", "invalid_request")
        assert len(stream.step(ROWS)) == 1


@pytest.mark.parametrize(
    ("model", "frame", "code", "field"),
    [
        (STEPPER, "{", "malformed_json", None),
        (STEPPER, "", "malformed_json", None),
        (STEPPER, "[1]", "invalid_request", None),
        (STEPPER, "{}", "invalid_request", "inputs"),
        (STEPPER, '{"input": [[1, 2]]}', "invalid_request", "input"),
        (STEPPER, '{"inputs": [[1, "2"]]}', "invalid_request", "inputs[0][1]"),
        (STEPPER, '{"inputs": [[1, 2], [3]]}', "ragged_inputs", "inputs[1]"),
        (STEPPER, '{"inputs": [[1, NaN]]}', "not_finite", "inputs[0][1]"),
        (STEPPER, '{"inputs": [[1, 1e300]]}', "not_finite", "inputs"),
        (STEPPER, '{"inputs": []}', "empty_input", "inputs"),
        (STEPPER, '{"values": [1]}', "invalid_request", "values"),
        (STEPPER, '{"inputs": [[1, 2]], "checkpoint": 1}', "invalid_request", "checkpoint"),
        (STEPPER, '{"inputs": [[1, 2]], "state": "x"}', "invalid_request", "state"),
        (STEPPER, f'{{"inputs": {[[1, 2]] * 4097}}}', "item_too_large", "inputs"),
        (STEPPER, bytes(7), "invalid_request", None),
        (STEPPER, b"", "invalid_request", None),
        (STEPPER, bytes(8 * 4097), "item_too_large", None),
        (STEPPER, np.array([1, np.nan], "<f4").tobytes(), "not_finite", None),
        (STEPPER, np.array([1, np.inf], "<f4").tobytes(), "not_finite", None),
        ("numbers", np.array([3e38, 3e38], "<f4").tobytes(), "not_finite", None),
        ("reader", bytes(8), "invalid_request", None),
        ("reader", '{"text": "  "}', "empty_input", "text"),
    ],
)
def test_a_frame_that_cannot_be_taken_is_refused_in_its_place_and_loses_nothing(
    server: Server, model: str, frame: str | bytes, code: str, field: str | None
) -> None:
    good = (
        {"inputs": ROWS[:2].tolist()} if model == STEPPER else {"values": [1]} if model == "numbers" else {"text": "a"}
    )
    with Stream(server, model) as stream, Stream(server, model) as undisturbed:
        first = stream.ask(**good)
        assert first["outputs"] == undisturbed.ask(**good)["outputs"]
        stream.connection.send(frame)
        stream.send(**good)
        refused = stream.frame()
        assert (refused["type"], refused["step"]) == ("error", first["step"])
        assert (refused["error"]["code"], refused["error"].get("field")) == (code, field)
        assert refused["error"]["request_id"]
        after, expected = stream.frame(), undisturbed.ask(**good)
        assert after["step"] == expected["step"] == 2 * first["step"]
        for name, value in expected["outputs"].items():
            np.testing.assert_allclose(after["outputs"][name], value, atol=CLOSE)


@pytest.mark.parametrize(
    ("opening", "code", "field"),
    [
        ("{", "malformed_json", None),
        (b"\0\0\0\0", "invalid_request", None),
        ("{}", "invalid_request", "model"),
        ('{"model": "none"}', "unknown_model", "model"),
        ('{"model": "forecast"}', "wrong_task", "model"),
        ('{"model": "stepper", "version": "2"}', "unknown_model", "version"),
        ('{"model": "stepper", "version": "1", "state": "AAAA"}', "invalid_request", "version"),
        ('{"model": "forecast", "version": "1"}', "wrong_task", "model"),
        ('{"model": "stepper", "returns": "all"}', "invalid_request", "returns"),
        ('{"model": "stepper", "return": "some"}', "invalid_request", "return"),
        ('{"model": "stepper", "checkpoint_every": 0}', "invalid_request", "checkpoint_every"),
        ('{"model": "stepper", "state": null}', "state_invalid", "state"),
        ('{"model": "stepper", "state": "%"}', "state_invalid", "state"),
        ('{"model": "stepper", "state": "AAAA"}', "state_invalid", "state"),
    ],
)
def test_an_opening_that_cannot_be_taken_is_refused_with_the_reason(
    server: Server, opening: str | bytes, code: str, field: str | None
) -> None:
    with Stream(server, first=opening) as stream:
        (refused,), closed = stream.end()
    assert closed == 1008
    assert (refused["type"], refused["step"]) == ("error", 0)
    assert (refused["error"]["code"], refused["error"].get("field")) == (code, field)


def test_a_token_of_another_model_is_refused_at_the_opening(server: Server) -> None:
    with Stream(server) as stream:
        stream.step(ROWS)
        state = stream.ask(checkpoint=True)["state"]
    rejected = server.metric("baton_tokens_rejected_total", "reason", "wrong_model")
    with Stream(server, "numbers", state=state) as stream:
        assert stream.opened["error"]["code"] == "state_wrong_model"
        assert stream.end() == ([], 1008)
    assert server.metric("baton_tokens_rejected_total", "reason", "wrong_model") == rejected + 1


def test_streams_share_runs_whatever_their_chunk_lengths(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_RUN_THREADS="1")
    sessions = [random_rows(seed, 60) for seed in range(8)]
    expected = [whole(server, rows) for rows in sessions]
    count, total = (partial(server.metric, f"baton_batch_rows_{of}", "model", STEPPER) for of in ("count", "sum"))
    runs, shared = count(), total()
    with ExitStack() as kept:
        streams = [kept.enter_context(Stream(server, **{"return": "all"})) for _ in sessions]
        for start in range(60):
            for number, (stream, rows) in enumerate(zip(streams, sessions, strict=True)):
                length = number % 4 + 1
                if start % length == 0:
                    stream.send_rows(rows[start : start + length])
        for stream, outputs in zip(streams, expected, strict=True):
            made = [stream.floats()]
            while sum(map(len, made)) < 60:
                made.append(stream.floats())
            np.testing.assert_allclose(np.concatenate(made), outputs, atol=CLOSE)
    frames = 2 * sum(60 // length for length in (1, 2, 3, 4))
    assert total() - shared == frames
    assert count() - runs < frames / 2


def test_a_stream_leaves_one_line_in_the_log_and_its_counts_in_the_metrics(server: Server) -> None:
    counters = [("stream_frames_total",), ("streams_closed_total", "code", "1000")]
    counters.append(("requests_total", "status", "101"))
    before, start = [server.metric(f"baton_{name}", *label) for name, *label in counters], server.mark()
    with Stream(server) as stream:
        request_id = stream.connection.response.headers["x-request-id"]
        assert server.metric("baton_streams") == 1
        stream.step(ROWS)
        stream.step(ROWS[:1])
        stream.connection.send(b"x")
        stream.frame()
    lines = server.lines_since(start, until=request_id)
    assert "WS /v1/stream 101 " in lines[-1]
    assert lines[-1].endswith(f"id={request_id} close=1000 frames=3 steps=13 model=stepper")
    assert not [line for line in lines[:-1] if "stream" in line or "WebSocket" in line or "connection" in line]
    assert server.metric("baton_streams") == 0
    after = [server.metric(f"baton_{name}", *label) for name, *label in counters]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 1, 1]
