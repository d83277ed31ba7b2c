"""`baton generate` by models of handwriting: points and their picture, in process and at a service."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ended, run
from conftest import TOKEN_KEYS, Server

TEXT = ("--model", "penman", "--condition", "abc de", "--seed", "3", "--max-steps", "12", "--bias", "0.5")
CLOSE = 1e-3


@pytest.fixture(autouse=True)
def settings(pen_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_MODELS_DIR", str(pen_models))
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BATON_TOKEN_KEYS", TOKEN_KEYS)


@pytest.fixture
def choice(pens: Server) -> dict[str, Any]:
    """What the service answers to `TEXT`, with the picture."""
    body = {"model": "penman", "seed": 3, "max_steps": 12, "bias": 0.5, "svg": True}
    answer = pens.post("/v1/generate", {**body, "items": [{"condition": {"text": "abc de"}}]}).json()
    made: dict[str, Any] = answer["results"][0]["choices"][0]
    return made


def points(ended: Ended) -> list[list[float]]:
    return [[row["dx"], row["dy"], row["pen_up"]] for row in ended.rows]


def numbers(svg: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", svg)]


def test_points_are_rows_of_the_service_whoever_serves_them(pens: Server, choice: dict[str, Any]) -> None:
    here, there = run("generate", *TEXT), run("generate", *TEXT, "--url", pens.url)
    for ended in (here, there):
        np.testing.assert_allclose(points(ended), choice["points"], atol=CLOSE)
        assert [(row["choice"], row["step"]) for row in ended.rows] == [(0, step) for step in range(1, 13)]
        assert "seed 3, 12 steps, ended by length" in ended.stderr


def test_a_bias_makes_other_points() -> None:
    assert run("generate", *TEXT).rows != run("generate", *TEXT, "--bias", "2").rows


def test_several_are_rows_of_their_choice_and_go_to_files(tmp_path: Path) -> None:
    output = tmp_path / "points.csv"
    ended = run("generate", *TEXT, "--n", "2", "--output", output)
    assert [line.split(",")[0] for line in ended.stderr.splitlines()] == ["seed 3", "seed 4"]
    with output.open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ["choice", "step", "dx", "dy", "pen_up"]
    assert [row["choice"] for row in rows] == ["0"] * 12 + ["1"] * 12
    assert {row["pen_up"] for row in rows} <= {"0", "1"}


def test_a_doubtful_condition_is_told_of() -> None:
    for form in ("--json", "--bias=1"):
        ended = run("generate", "--model", "penman", "--condition", "ab!", "--max-steps", "2", form)
        assert "--condition: unknown to the model: 1 of the text's 3 tokens" in ended.stderr


def test_points_go_on_from_a_file(tmp_path: Path, choice: dict[str, Any]) -> None:
    kept = ("--state-file", tmp_path / "kept", "--max-steps", "6")
    first, rest = (
        run("generate", *TEXT, *kept),
        run("generate", "--model", "penman", "--seed", "3", "--bias", "0.5", *kept),
    )
    np.testing.assert_allclose(points(first) + points(rest), choice["points"], atol=CLOSE)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_picture_is_that_of_the_service(tmp_path: Path, choice: dict[str, Any], terminal: bool) -> None:
    """On a terminal points are shown, a line each, as they come."""
    file = tmp_path / "text.svg"
    ended = run("generate", *TEXT, "--svg", file, terminal=terminal)
    assert ended.status == 0
    assert file.read_text().startswith("<svg ")
    np.testing.assert_allclose(numbers(file.read_text()), numbers(choice["svg"]), atol=CLOSE)
    if terminal:
        shown = [[*map(float, line.split())] for line in ended.stdout.splitlines()]
        np.testing.assert_allclose(shown, choice["points"], atol=CLOSE)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--svg", "text.png"], "--svg text.png must end with .svg"),
        (["--svg", "text.svg", "--n", "2"], "--svg draws one text, and --n makes several"),
        (["--svg", "one.svg", "--state-file", "one.svg"], "--svg one.svg is the --state-file, too; name another file"),
        (["--svg", "nowhere/text.svg"], "nothing can be written to the directory"),
        (["--beams", "2"], "leave seed out (see docs/errors.md#invalid_request)"),
        (["--bias", "101"], "bias: "),
        (["--model", "generator", "--condition", "a"], "(see docs/errors.md#invalid_request)"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(more: list[str], says: str) -> None:
    ended = run("generate", *TEXT, *more)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
