"""The users of models that tag, transform, classify and generate: what they send is answered, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_kinds
import tiny_sequences
import tiny_writers
from conftest import ServerFactory
from test_locustfile import SHORT, counts, run_load

from loadtests import checks

KINDS = ("tag", "transform", "classify", "generate")
OPTIONS = [word for kind in KINDS for word in (f"--{kind}-weight", "1", f"--{kind}-p95-ms", "60000")]
BODY = {"max_steps": 2, "seed": 7}

CHECKS: dict[str, Callable[[bytes], object]] = {
    "tag": lambda content: checks.tag(content, ["a"], ["ab c"]),
    "transform": lambda content: checks.transform(content, ["a"], [[1.0, 2.0]]),
    "classify": lambda content: checks.classify(content, ["a"]),
    "generate": lambda content: checks.generate(content, ["a"], BODY),
}
WORD = {"text": "c", "start": 3, "end": 4, "label": "X", "score": 0.75}
CHOICE = {"text": "xy", "seed": 7, "steps": 2, "finish": "length"}
RIGHT: dict[str, dict[str, Any]] = {
    "tag": {"tokens": [WORD]},
    "transform": {"outputs": [0.5, 1.0]},
    "classify": {"label": "X", "score": 0.75, "scores": {"X": 0.75, "Y": 0.25}, "steps": 3},
    "generate": {"choices": [CHOICE]},
}


def content(name: str, **changes: Any) -> bytes:
    return json.dumps({"results": [{"index": 0, "id": "a", **RIGHT[name], **changes}]}).encode()


def test_every_kind_is_answered_rightly(tmp_path: Path, start_server: ServerFactory) -> None:
    models = tmp_path / "models"
    tiny_sequences.live_tagger(models, name="tagger", text=tiny.text_settings(polarity=None, max_length=4096))
    tiny_sequences.cleaner(models, name="denoise")
    tiny_kinds.spam(models)
    tiny_writers.generator(models, name="charlm")
    server = start_server(models, tmp_path / "state")
    users = ("TagUser", "TransformUser", "ClassifyUser", "GenerateUser")
    run = run_load(tmp_path / "results", "--host", server.url, *SHORT, *OPTIONS, *users)
    assert run.returncode == 0, run.stdout + run.stderr
    assert counts(run).keys() == {*KINDS}
    assert all(answered >= 20 and rest == [0, 0, 0] for answered, *rest in counts(run).values())


@pytest.mark.parametrize("name", CHECKS)
def test_a_right_answer_is_accepted(name: str) -> None:
    CHECKS[name](content(name))


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("tag", {"tokens": [{**WORD, "start": 2, "end": 3}]}, "a word does not stand at its place"),
        ("tag", {"tokens": []}, "a word does not stand at its place"),
        ("tag", {"tokens": [{**WORD, "scores": {"X": 0.5, "Y": 0.5}}]}, "the score is not the label's"),
        ("transform", {"outputs": [0.5]}, "there are not as many outputs as values"),
        ("transform", {"outputs": [0.5, None]}, "malformed answer: results.outputs"),
        ("classify", {"scores": None}, "scores are not as asked for"),
        ("classify", {"scores": {"X": 0.75, "Y": 0.5}}, "the scores do not sum to 1"),
        ("classify", {"score": 0.25, "label": "Y"}, "the label is not that of the highest score"),
        ("generate", {"choices": [{**CHOICE, "steps": 1}]}, "steps or seed are not as asked for"),
        ("generate", {"choices": [{**CHOICE, "finish": "stop"}]}, "malformed answer: results.choices.finish"),
    ],
)
def test_a_wrong_answer_is_not(name: str, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(checks.WrongAnswer, match=reason):
        CHECKS[name](content(name, **change))


def test_another_text_of_the_same_seed_is_wrong() -> None:
    with pytest.raises(checks.WrongAnswer, match="the same seed gave another text"):
        checks.same_text("a", "b")
