"""`baton translate`, and `baton step` and `generate` from a condition: the same answers in process and at a service."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from conftest import TOKEN_KEYS, Server

TEXTS = ["abc de", "gfe", "cabbage"]
GREEDY = ("--model", "translate", "--temperature", "0", "--seed", "0")
LONG = "abcdefg" * 3
CLOSE = 2e-4


@pytest.fixture(autouse=True)
def settings(conditioned_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_MODELS_DIR", str(conditioned_models))
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("BATON_TOKEN_KEYS", TOKEN_KEYS)
    monkeypatch.setenv("BATON_MAX_ITEMS", "2")  # so that a few items are several requests


def expected(server: Server, *texts: str, **options: Any) -> list[dict[str, Any]]:
    """Return the rows that the answer of the service makes: one for each translation."""
    rows = []
    for text in texts:
        (result,) = server.post("/v1/translate", {"inputs": [text], **options}).json()["results"]
        for rank, found in enumerate([result, *result.get("alternatives", ())], start=1):
            told = {name: found[name] for name in ("score", "finish", "attention") if name in found}
            rows.append({"text": text, "rank": rank, "translation": found["text"], **told})
    return rows


def assert_alike(rows: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    for row, other in zip(rows, wanted, strict=True):
        assert row.keys() == other.keys()
        for name in ("text", "rank", "translation", "finish"):
            assert row[name] == other[name]
        assert row["score"] == pytest.approx(other["score"], abs=CLOSE)
        if "attention" in other:
            assert row["attention"]["tokens"] == other["attention"]["tokens"]
            np.testing.assert_allclose(row["attention"]["weights"], other["attention"]["weights"], atol=CLOSE)


def test_translations_are_those_of_the_service_whoever_serves_them(conditioned: Server) -> None:
    options = ("--beams", "5", "--length-penalty", "0.5", "--alternatives", "2", "--attention")
    wanted = expected(conditioned, *TEXTS, beams=5, length_penalty=0.5, alternatives=2, attention=True)
    assert [row["rank"] for row in wanted] == [1, 2] * 3
    assert_alike(run("translate", *TEXTS, *options).rows, wanted)
    assert_alike(run("translate", *TEXTS, *options, "--url", conditioned.url).rows, wanted)


def test_texts_come_from_files_and_stdin_and_go_to_files(conditioned: Server, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / "texts.csv").write_text("".join(f"{line}\n" for line in ["id,text", *(f"1,{text}" for text in TEXTS)]))
    given = run("translate", *TEXTS).rows
    assert_alike(given, expected(conditioned, *TEXTS))
    read = run("translate", "--file", tmp_path / "texts.txt").rows
    piped = run("translate", "--format", "jsonl", stdin="\n".join(map(json.dumps, TEXTS))).rows
    assert piped == read
    assert [row.pop("line") for row in read] == [1, 2, 3]
    assert_alike(read, given)
    output = tmp_path / "out.csv"
    run("translate", "--file", tmp_path / "texts.csv", "--column", "text", "--attention", "--output", output)
    with output.open(newline="") as file:
        columns = [*csv.DictReader(file)]
    assert [row["line"] for row in columns] == ["2", "3", "4"]
    assert [row["translation"] for row in columns] == [row["translation"] for row in given]
    assert json.loads(columns[0]["attention.source"]) == [*TEXTS[0]]


def test_a_table_shows_translations_without_attention() -> None:
    shown = run("translate", "abc de", "--attention", terminal=True).stdout
    names = [name for name in ("text", "rank", "translation", "score", "finish", "attention") if name in shown]
    assert names == ["text", "rank", "translation", "score", "finish"]


def test_what_is_doubtful_and_what_fails_is_said_with_its_place() -> None:
    ended = run("translate", "abc", "", LONG)
    assert (ended.status, [row["text"] for row in ended.rows]) == (1, ["abc", LONG])
    assert sorted(ended.stderr.splitlines()) == [
        "baton: text 2: text: the text has no words; give at least one (see docs/errors.md#empty_input)",
        "text 3: the text has 21 tokens; the longest that the model was trained on has 16",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["abc", "--model", "generator"], "(see docs/errors.md#wrong_task)"),
        (["abc", "--beams", "2", "--alternatives", "3"], "alternatives: 3 alternatives; at most as many as beams, 2"),
        (["abc", "--beams", "17"], "beams: "),
        (["abc\udcff"], "text 1 is not in UTF-8"),
    ],
)
def test_a_request_that_will_not_do_is_one_line(arguments: list[str], says: str) -> None:
    ended = run("translate", *arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_beams_give_the_best_texts_with_their_scores(conditioned: Server) -> None:
    """On a terminal too, where a text that is drawn would come piece by piece."""
    asked = ("generate", "--model", "translate", "--condition", "abc de", "--max-steps", "8", "--beams", "2")
    body = {"model": "translate", "beams": 2, "n": 2, "max_steps": 8, "items": [{"condition": {"text": "abc de"}}]}
    choices = conditioned.post("/v1/generate", body).json()["results"][0]["choices"]
    names = ("choice", "text", "score", "steps", "finish")
    wanted = [
        {**{name: choice[name] for name in names}, "score": pytest.approx(choice["score"], abs=CLOSE)}
        for choice in choices
    ]
    assert run(*asked, "--n", "2").rows == wanted
    assert run(*asked, "--n", "2", "--url", conditioned.url).rows == wanted
    shown = run(*asked, terminal=True).stdout
    assert [name for name in ("choice", "text", "score", "seed", "finish") if name in shown] == [
        "choice",
        "text",
        "score",
        "finish",
    ]
    refused = run(*asked, "--temperature", "1")
    assert (refused.status, refused.stdout) == (1, "")
    assert "temperature: beams search and draw nothing" in refused.stderr


# -- conditions ------------------------------------------------------------------------------------------------------


def test_a_text_is_written_from_a_condition_and_goes_on_from_its_state(conditioned: Server, tmp_path: Path) -> None:
    kept = ("--state-file", tmp_path / "kept")
    (whole,) = run("generate", *GREEDY, "--condition", "abc de", "--max-steps", "8").rows
    (there,) = run("generate", *GREEDY, "--condition", "abc de", "--max-steps", "8", "--url", conditioned.url).rows
    body = {"model": "translate", "temperature": 0, "max_steps": 8, "items": [{"condition": {"text": "abc de"}}]}
    (choice,) = conditioned.post("/v1/generate", body).json()["results"][0]["choices"]
    assert whole["text"] == there["text"] == choice["text"]
    (first,) = run("generate", *GREEDY, "--condition", "abc de", "--max-steps", "3", *kept).rows
    refused = run("generate", *GREEDY, "--condition", "abc de", *kept)
    assert "condition: a state goes on with its own session; leave condition or state out" in refused.stderr
    (rest,) = run("generate", *GREEDY, "--max-steps", "5", *kept).rows
    assert first["text"] + rest["text"] == whole["text"]


def test_a_session_steps_from_a_condition(conditioned: Server, tmp_path: Path) -> None:
    """The first step is the model's own; what follows may come with it, or later from the state."""
    state = tmp_path / "state.txt"
    whole = run("step", "translate", "gf", "ab", "--begin", "abc de").rows
    there = run("step", "translate", "gf", "ab", "--begin", "abc de", "--url", conditioned.url).rows
    assert [(row["step"], row["token"]) for row in whole] == [*enumerate("\ngfab", start=1)]
    first = run("step", "translate", "--begin", "abc de", "--save-state", state).rows
    rest = run("step", "translate", "gfab", "--state", f"@{state}").rows
    for row, *others in zip(whole, there, first + rest, strict=True):
        for other in others:
            assert (other["step"], other["token"]) == (row["step"], row["token"])
            np.testing.assert_allclose(other["logits"], row["logits"], atol=1e-5)


def test_a_session_begins_from_a_condition_alone_whatever_its_steps_are(pens: Server) -> None:
    """A step of a pen is a row; the first is the model's own. What is doubtful of the condition is told."""
    ended = run("step", "penman", "--begin", "ab!", "--url", pens.url)
    assert [row["step"] for row in ended.rows] == [1]
    assert "--begin: unknown to the model: 1 of the text's 3 tokens" in ended.stderr
    assert run("step", "penman", "0,0,1", "--begin", "abc", "--url", pens.url).rows[1]["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generator", "a", "--begin", "abc"], "sessions of 'generator' begin from nothing"),
        (["translate", "a"], "begin from a condition"),
        (["translate", "--begin", ""], "(see docs/errors.md#empty_input)"),
        (["translate", "a", "--begin", "\udcff"], "--begin is not in UTF-8"),
        (["rows-reader", "--begin", "a", "1,2"], "begin"),
    ],
)
def test_a_condition_that_will_not_do_is_one_line(arguments: list[str], says: str) -> None:
    ended = run("step", *arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
