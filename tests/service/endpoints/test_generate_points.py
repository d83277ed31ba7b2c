"""POST /v1/generate by models of handwriting: points drawn as by hand, gone on with, biased, refused, and pictured."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pens
import tiny_writers
from conftest import TOKEN_KEYS, Server, ServerFactory
from generating import ask, error_of, one, same, stream
from in_process import Array, run, run_file
from numpy.random import Generator, Philox

TEXT = {"condition": {"text": "abc de"}}
SCRIBBLE = {"model": "scribbler", "max_steps": 20}
WRITE = {"model": "penman", "max_steps": 40}


def close(points: list[list[float]], other: list[list[float]]) -> bool:
    """Return whether points are the same but for float rounding; the ends of strokes are exactly so."""
    one, two = np.array(points).reshape(-1, 3), np.array(other).reshape(-1, 3)
    return one.shape == two.shape and np.allclose(one, two, atol=1e-3) and bool((one[:, 2] == two[:, 2]).all())


def draw_by_hand(made: Array, seed: int, step: int, bias: float) -> list[float]:
    """Return the point that equations 18 to 25, 61 and 62 of Graves 2013 give for the numbers of a step."""
    choice, one, other, last = Generator(Philox(key=seed, counter=step)).random(4)
    end, *others = made.astype(np.float64).tolist()
    logits, right, up, over, along, turn = np.array(others).reshape(6, -1)
    shares = np.exp(logits * (1 + bias)) / np.exp(logits * (1 + bias)).sum()
    j = int(np.flatnonzero(choice < shares.cumsum())[0])
    radius, angle = math.sqrt(-2 * math.log(1 - one)), 2 * math.pi * other
    first, second, rho = radius * math.cos(angle), radius * math.sin(angle), math.tanh(turn[j])
    x = right[j] + math.exp(over[j] - bias) * first
    y = up[j] + math.exp(along[j] - bias) * (rho * first + math.sqrt(1 - rho**2) * second)
    return [x, y, float(last < 1 / (1 + math.exp(-end)))]


def scribble_by_hand(directory: Path, seed: int, steps: int, bias: float) -> list[list[float]]:
    """Return what a loop of onnxruntime draws, from all points each time."""
    points = [tiny_pens.START]
    for step in range(1, steps + 1):
        fed = np.array([points], np.float32)
        made = run(directory, points=fed, lengths=np.array([len(points)], np.int32))["mixture"]
        points.append(draw_by_hand(made[0, -1], seed, step, bias))
    return points[1:]


def write_by_hand(directory: Path, text: str, seed: int, most: int, bias: float) -> list[list[float]]:
    """Return what a loop of onnxruntime writes of a text, up to its end."""
    ids = np.array([tiny_writers.letters().encode(text).ids], np.int32)
    lengths = np.array([len(text)], np.int32)
    carried: dict[str, Array] = {"memory_lengths": lengths, "h": np.zeros((1, tiny_pens.HIDDEN), np.float32)}
    carried["memory"] = run_file(directory / "start.onnx", source=ids, source_lengths=lengths)["memory_0"]
    points = [tiny_pens.START]
    for step in range(1, most + 2):
        made = run(directory, point=np.array(points[-1:], np.float32), **carried)
        carried["h"] = made["h_out"]
        if step > most or (step > 1 and made["end"][0, 0] >= 0.5):
            break
        points.append(draw_by_hand(made["mixture"][0], seed, step, bias))
    return points[1:]


@pytest.mark.parametrize("bias", [0, 0.7])
def test_points_are_what_numpy_draws_from_the_outputs_of_the_graph(pens: Server, pen_models: Path, bias: float) -> None:
    choice = one(pens, {}, seed=5, bias=bias, **SCRIBBLE)
    assert close(choice["points"], scribble_by_hand(pen_models / "scribbler" / "1", 5, 20, bias))
    assert (choice["steps"], choice["step"], choice["finish"], choice["seed"]) == (20, 21, "length", 5)
    assert {end for _, _, end in choice["points"]} == {0, 1}
    assert all(isinstance(end, int) for _, _, end in choice["points"])


@pytest.mark.parametrize("bias", [0, 0.2])
def test_a_text_is_written_until_the_model_says_that_it_is_finished(
    pens: Server, pen_models: Path, bias: float
) -> None:
    finishes = set()
    for seed in range(1, 7):
        choice = one(pens, TEXT, seed=seed, bias=bias, **WRITE)
        due = write_by_hand(pen_models / "penman" / "1", "abc de", seed, 40, bias)
        assert close(choice["points"], due)
        assert (choice["steps"], choice["step"]) == (len(due), 1 + len(due))
        finishes.add(choice["finish"])
        assert (choice["finish"] == "end") is (len(due) < 40)
    assert "end" in finishes


def test_a_seed_draws_the_same_alone_and_beside_31_others(pens: Server) -> None:
    texts = ["abc", "g", "fed cab", "a b c d e f"]
    requests: list[dict[str, Any]] = [
        {"items": [{"condition": {"text": texts[seed % 4]}}], "seed": seed, "bias": seed % 3, **WRITE}
        for seed in range(32)
    ]
    alone = [pens.post("/v1/generate", body).json()["results"] for body in requests]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda body: pens.post("/v1/generate", body).json()["results"], requests))
    for (before,), (after,) in zip(alone, together, strict=True):
        ((own,), (other,)) = before["choices"], after["choices"]
        assert close(own["points"], other["points"])
        assert own["finish"] == other["finish"]


def test_points_go_on_elsewhere_as_if_never_interrupted(
    pen_models: Path, tmp_path: Path, start_server: ServerFactory, pens: Server
) -> None:
    whole = one(pens, TEXT, seed=3, **WRITE)
    half = one(pens, TEXT, seed=3, model="penman", max_steps=7)
    other = start_server(pen_models, tmp_path / "state", BATON_TOKEN_KEYS=TOKEN_KEYS)
    rest = one(other, {"state": half["state"]}, seed=3, model="penman", max_steps=33)
    assert close(half["points"] + rest["points"], whole["points"])
    assert (rest["step"], rest["finish"]) == (whole["step"], whole["finish"])
    held = one(pens, TEXT, seed=3, model="penman", max_steps=7, hold="server")
    assert close(one(pens, {"state": held["state"]}, seed=3, model="penman", max_steps=33)["points"], rest["points"])


def test_choices_are_forks_and_a_state_used_twice_is_one(pens: Server) -> None:
    ((*choices,),) = [result["choices"] for result in ask(pens, TEXT, n=3, seed=4, **WRITE)]
    assert [choice["seed"] for choice in choices] == [4, 5, 6]
    for choice in choices:
        assert close(choice["points"], one(pens, TEXT, seed=choice["seed"], **WRITE)["points"])
    again = [one(pens, {"state": choices[0]["state"]}, seed=9, **WRITE) for _ in range(2)]
    assert same(*again)


def test_points_of_a_prompt_are_gone_on_from_as_those_that_were_drawn(pens: Server) -> None:
    """What was drawn is given again as a prompt, behind the point to start with."""
    first = one(pens, {}, seed=8, **{**SCRIBBLE, "max_steps": 6})
    prompted = one(pens, {"inputs": [tiny_pens.START, *first["points"]]}, seed=8, **SCRIBBLE)
    resumed = one(pens, {"state": first["state"]}, seed=8, **SCRIBBLE)
    assert close(prompted["points"], resumed["points"])
    assert prompted["step"] == resumed["step"] == 27


def test_steps_by_hand_are_the_states_of_generation(pens: Server) -> None:
    """From a condition the point to start with comes first; a row is three numbers, as of any model."""
    choice = one(pens, TEXT, seed=1, model="penman", max_steps=5)
    item = {"begin": TEXT["condition"], "inputs": choice["points"]}
    stepped = pens.post("/v1/step", {"model": "penman", "items": [item]}).json()["results"][0]
    assert stepped["step"] == choice["step"] == 6
    on = [one(pens, {"state": each["state"]}, seed=2, **WRITE)["points"] for each in (choice, stepped)]
    assert close(*on)


def test_the_higher_the_bias_the_nearer_to_the_likeliest(pens: Server) -> None:
    """Of the first points of many, which are drawn from the same mixture, the variances fall."""
    spread = []
    for bias in (0, 1, 3):
        body = {"model": "scribbler", "items": [{}], "n": 64, "seed": 0, "max_steps": 1, "bias": bias}
        choices = pens.post("/v1/generate", body).json()["results"][0]["choices"]
        spread.append(np.array([choice["points"][0][:2] for choice in choices]).var(axis=0).sum())
    assert spread[0] > spread[1] > spread[2]


def test_a_stream_tells_the_points_as_they_come_and_the_picture_at_the_end(pens: Server) -> None:
    whole = one(pens, TEXT, seed=3, svg=True, **WRITE)
    *events, _ = stream(pens, TEXT, seed=3, svg=True, state_every=10, **WRITE)
    assert close([point for event in events for point in event["points"]], whole["points"])
    assert ["svg" in event for event in events] == [False] * (len(events) - 1) + [True]
    assert len(numbers(events[-1]["svg"])) == len(numbers(whole["svg"]))
    assert next(event["step"] for event in events if "state" in event) == 11
    assert "text" not in events[0]


def numbers(svg: str) -> list[Array]:
    """Return the places [points, 2] of each path."""
    root = ET.fromstring(svg)
    paths = [path.attrib["d"] for path in root.iter("{http://www.w3.org/2000/svg}path")]
    return [np.array(re.findall(r"[^ML ]+", path), np.float64).reshape(-1, 2) for path in paths]


def test_the_picture_has_the_sums_of_the_offsets_in_a_path_for_each_stroke(pens: Server) -> None:
    choice = one(pens, {}, seed=5, svg=True, **SCRIBBLE)
    points = np.array(choice["points"])
    places, ends = points[:, :2].cumsum(axis=0) * (1, -1), points[:-1, 2].nonzero()[0] + 1
    strokes = np.split(places, ends)
    paths = numbers(choice["svg"])
    assert len(paths) == len(strokes) > 2
    for path, stroke in zip(paths, strokes, strict=True):
        due = stroke if len(stroke) > 1 else np.repeat(stroke, 2, axis=0)  # a dot
        np.testing.assert_allclose(path, due, atol=1e-4)
    root = ET.fromstring(choice["svg"])
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert ((places > (left, top)) & (places < (left + width, top + height))).all()
    assert (root.attrib["stroke"], root.attrib["stroke-linecap"]) == ("currentColor", "round")


def test_a_single_point_is_a_dot_with_room_around_it(pens: Server) -> None:
    svg = one(pens, {}, seed=5, svg=True, model="scribbler", max_steps=1)["svg"]
    (dot,) = numbers(svg)
    assert dot[0].tolist() == dot[1].tolist()
    assert [float(size) for size in ET.fromstring(svg).attrib["viewBox"].split()[2:]] == [2, 2]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("temperature", 0.5), ("top_k", 3), ("top_p", 0.5), ("stop", ["a"]), ("probabilities", True)),
        *(("beams", 2), ("length_penalty", 2)),
    ],
)
def test_what_is_for_ids_is_refused_by_name(pens: Server, member: str, value: object) -> None:
    body: dict[str, Any] = {"model": "scribbler", "items": [{}], member: value}
    assert error_of(pens.post("/v1/generate", body)) == (422, "invalid_request", member)


@pytest.mark.parametrize(
    ("given", "field"), [({"bias": 0.5}, "bias"), ({"svg": True}, "svg"), ({"svg": True, "beams": 2}, "svg")]
)
def test_what_is_for_points_is_refused_by_a_model_of_ids(pens: Server, given: dict[str, Any], field: str) -> None:
    answer = pens.post("/v1/generate", {"model": "generator", "items": [{}], **given})
    assert error_of(answer) == (422, "invalid_request", field)
    assert "'generator' draws ids" in answer.json()["error"]["message"]


@pytest.mark.parametrize("bias", [-0.1, 100.5])
def test_a_bias_is_from_0_to_100(pens: Server, bias: float) -> None:
    answer = pens.post("/v1/generate", {"model": "scribbler", "items": [{}], "bias": bias})
    assert error_of(answer) == (422, "invalid_request", "bias")


def test_completions_are_for_models_of_text(pens: Server) -> None:
    answer = pens.post("/v1/completions", {"model": "penman", "prompt": ""})
    assert answer.status_code == 422
    assert "no tokenizer" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ({"prompt": "a"}, "invalid_request", "items[0].prompt"),
        ({"inputs": [[0, 0]]}, "ragged_inputs", "items[0].inputs[0]"),
    ],
)
def test_a_prompt_is_points(pens: Server, item: dict[str, Any], code: str, field: str) -> None:
    assert error_of(pens.post("/v1/generate", {"model": "scribbler", "items": [item]})) == (422, code, field)


def test_what_was_drawn_before_a_point_that_cannot_be_stays(pens: Server) -> None:
    """After each end of a stroke the model's deviations are beyond float32: there a choice ends, with its error."""
    body = {"model": "tearer", "items": [{}], "n": 16, "seed": 1, "max_steps": 30, "svg": True}
    (result,) = pens.post("/v1/generate", body).json()["results"]
    assert result["error"]["code"] == "not_finite"
    assert "no point can be drawn" in result["error"]["message"]
    ended = [choice for choice in result["choices"] if choice["finish"] == "error"]
    assert len({choice["steps"] for choice in ended}) > 2
    for choice in ended:
        assert [end for _, _, end in choice["points"]] == [0] * (choice["steps"] - 1) + [1]
        shorter = {"model": "tearer", "seed": choice["seed"], "max_steps": choice["steps"]}
        assert close(one(pens, {}, **shorter)["points"], choice["points"])
