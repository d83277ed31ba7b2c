"""The generator of frames and its floors: what it counts is what was answered, and what is wrong is an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Server

from loadtests.floors import RunLimit
from loadtests.frames import BINARY, client_frame, load, server_frame
from loadtests.models import FEATURES, STEP_MODEL, gather_models, newest
from loadtests.serving import baseline
from loadtests.streams import FrameLoad

OPENING = json.dumps({"model": "stepper"})
STEP = np.array([1, 2], "<f4").tobytes()
STEP_FRAME = client_frame(BINARY, STEP)


def url(server: Server) -> str:
    return f"{server.url}/v1/stream"


def test_every_answer_is_counted_once(server: Server) -> None:
    before = server.metric("baton_steps_total", "model", "stepper")
    found = load(url(server), connections=3, seconds=0.3, opening=OPENING, frames=[STEP_FRAME], answer_bytes=12)
    assert found["errors"] == 0
    under_way = server.metric("baton_steps_total", "model", "stepper") - before - found["answers"]
    assert 0 <= under_way <= 3
    assert 0 < found["p50_us"] <= found["p99_us"]


@pytest.mark.parametrize(
    ("frame", "answer_bytes"),
    [(STEP_FRAME, 8), (STEP_FRAME, 16), (client_frame(BINARY, STEP[:-1]), 12)],
    ids=["too long", "too short", "refused"],
)
def test_an_answer_of_another_form_is_an_error(server: Server, frame: bytes, answer_bytes: int) -> None:
    found = load(url(server), connections=2, seconds=0.3, opening=OPENING, frames=[frame], answer_bytes=answer_bytes)
    assert (found["answers"], found["errors"]) == (0, 2)


def test_a_stream_that_is_refused_ends_the_run(server: Server) -> None:
    with pytest.raises(SystemExit, match="unknown_model"):
        load(url(server), connections=1, seconds=1, opening='{"model": "none"}', frames=[STEP_FRAME], answer_bytes=12)


@pytest.mark.parametrize("size", [4, 125, 126, 65_535, 65_536])
def test_frames_have_the_lengths_of_the_protocol(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    sent, answered = client_frame(BINARY, payload[:size]), server_frame(BINARY, payload[:size])
    assert len(sent) == len(answered) + 4
    assert answered.endswith(payload[:size])
    mask, masked = sent[-size - 4 : -size], sent[-size:]
    assert bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked)) == payload[:size]


def test_the_echo_answers_with_what_it_got(tmp_path: Path) -> None:
    frames = FrameLoad.write(tmp_path, steps=1)
    with baseline("wsecho", tmp_path) as echo:
        found = frames.run(echo, 2, 0.3, answer_values=FEATURES)
    assert found.errors == 0
    assert found.requests_per_s > 0


def test_the_floor_of_runs_takes_the_steps_it_counts(tmp_path: Path) -> None:
    model = newest(STEP_MODEL, gather_models(tmp_path))
    limit = RunLimit(model, np.ones((4, 3 * FEATURES), np.float32), batch=2)
    assert limit.advance() == limit.advance() == 6
