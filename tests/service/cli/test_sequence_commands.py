"""`baton generate`, `tag`, `transform` and `classify`: the same answers in process and at a service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_sequences
import tiny_writers
import wav
from commands import run
from conftest import ROOT, Server

LIMITS = {"BATON_MAX_ITEMS": "2"}  # so that a few items are several requests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_sequences.all_sequences(tmp_path_factory.mktemp("models"))
    tiny_writers.generator(root)
    tiny_writers.ids_alone(root)
    tiny.sentiment(root)
    return root


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def served(models: Path, state_dir: Path) -> Iterator[Server]:
    """A service with the models and the token key of the commands."""
    running = Server(models, state_dir, **LIMITS)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def settings(models: Path, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_MODELS_DIR", str(models))
    monkeypatch.setenv("BATON_STATE_DIR", str(state_dir))
    for name, value in LIMITS.items():
        monkeypatch.setenv(name, value)


def answer(served: Server, path: str, **body: Any) -> dict[str, Any]:
    """Return the first result of a call."""
    result: dict[str, Any] = served.post(path, body).json()["results"][0]
    return result


# -- generate --------------------------------------------------------------------------------------------------------

SEEDED = ("--model", "generator", "--seed", "3")


def test_a_text_is_that_of_the_service_whoever_serves_it(served: Server) -> None:
    options = (
        "--max-steps",
        "20",
        "--temperature",
        "0.7",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
        "--stop",
        ".",
        "--stop",
        "gg",
    )
    here, there = (
        run("generate", "abc", *SEEDED, *options),
        run("generate", "abc", *SEEDED, *options, "--url", served.url),
    )
    more = {"max_steps": 20, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "stop": [".", "gg"], "seed": 3}
    (choice,) = answer(served, "/v1/generate", model="generator", items=[{"prompt": "abc"}], **more)["choices"]
    shown = {name: choice[name] for name in ("choice", "text", "seed", "steps", "finish")}
    assert here.rows == there.rows == [shown]


def test_several_texts_are_several_lines_and_a_prompt_may_come_from_stdin(served: Server) -> None:
    piped = run("generate", "-", *SEEDED, "--n", "2", "--max-steps", "5", stdin="abc")
    given = run("generate", "abc", *SEEDED, "--n", "2", "--max-steps", "5")
    assert piped.rows == given.rows
    assert [(row["choice"], row["seed"]) for row in given.rows] == [(0, 3), (1, 4)]


def test_a_text_goes_on_from_its_file_here_and_at_the_service(served: Server, tmp_path: Path) -> None:
    """In as many parts as the same text would have in one; the file is its owner's alone."""
    whole = run("generate", "abc", *SEEDED, "--max-steps", "30").rows[0]["text"]
    kept = ("--state-file", tmp_path / "state", "--max-steps", "10")
    first = run("generate", "abc", *SEEDED, *kept)
    assert f"the state after step 13 is in {tmp_path}/state, good until " in first.stderr
    second, third = run("generate", *SEEDED, *kept, "--url", served.url), run("generate", *SEEDED, *kept)
    assert "".join(ended.rows[0]["text"] for ended in (first, second, third)) == whole
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600


def test_a_model_without_a_tokenizer_gives_ids() -> None:
    (row,) = run("generate", "--model", "ids-alone", "--seed", "1", "--max-steps", "4").rows
    assert (len(row["ids"]), "text" in row) == (4, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["abc", "--model", "zebra"], "no model is called 'zebra'"),
        (["abc", "--model", "tagger"], "(see docs/errors.md#wrong_task)"),
        (["abc", "--model", "generator", "--max-steps", "100000"], "at most 4096"),
        (["abc", "--model", "generator", "--n", "2", "--state-file", "s"], "--state-file keeps one state"),
        (["abc", "--model", "generator", "--state-file", "README.md"], "(see docs/errors.md#state_invalid)"),
        (["abc", "--model", "generator", "--state-file", "docs"], "--state-file docs: "),
    ],
)
def test_a_text_that_cannot_be_had_is_one_line(arguments: list[str], says: str) -> None:
    ended = run("generate", *arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("at_service", [False, True], ids=["in process", "at a service"])
def test_a_terminal_sees_a_text_as_it_comes(served: Server, at_service: bool) -> None:
    """In pieces, and afterwards what gives it again."""
    asked = ["generate", "abc", *SEEDED, "--max-steps", "4000"]  # many pieces: of a few, one read may have all
    more = ["--url", served.url] if at_service else []
    (row,) = run(*asked).rows
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "service", *asked, *more]
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown: list[bytes] = []
        with suppress(OSError):  # how Linux says that the other end is closed
            while chunk := os.read(ours, 4096):
                shown.append(chunk)
        assert process.stderr is not None
        told = process.stderr.read().decode()
    os.close(ours)
    assert b"".join(shown).decode().replace("\r\n", "\n") == row["text"]
    assert len(shown) > 1
    assert "seed 3, 4000 steps, ended by length" in told
    assert process.returncode == 0


# -- tag -------------------------------------------------------------------------------------------------------------

TEXTS = ["a good film !", "not bad", "very good"]


def test_words_are_rows_with_their_labels(served: Server, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    given = run("tag", *TEXTS, "--model", "tagger", "--scores").rows
    read = run("tag", "--file", tmp_path / "texts.txt", "--model", "tagger", "--scores", "--url", served.url).rows
    assert [{name: cell for name, cell in row.items() if name != "line"} for row in read] == given
    assert [row["line"] for row in read] == [1, 1, 1, 1, 2, 2, 3, 3]
    expected = []
    for text in TEXTS:
        tokens = answer(served, "/v1/tag", model="tagger", inputs=[text], scores="all")["tokens"]
        expected += [(text, token["text"], token["start"], token["label"], token["scores"]) for token in tokens]
    found = [(row["text"], row["token"], row["start"], row["label"], row["scores"]) for row in given]
    for row, other in zip(found, expected, strict=True):
        assert row[:4] == other[:4]
        assert row[4] == pytest.approx(other[4], abs=2e-6)


def test_a_text_that_is_too_long_is_reported_and_the_others_are_written() -> None:
    ended = run("tag", "good", "good " * 17, "bad", "--model", "tagger")
    assert (ended.status, [row["token"] for row in ended.rows]) == (1, ["good", "bad"])
    assert "baton: text 2: text: the text has 17 tokens; at most 16 (see docs/errors.md#item_too_large)" in ended.stderr


# -- transform -------------------------------------------------------------------------------------------------------


def test_series_of_every_form_become_others(served: Server, tmp_path: Path) -> None:
    values = [0.5, -1.0, 2.25, 3.0]
    outputs = answer(served, "/v1/transform", model="cleaner", items=[{"values": values}])["outputs"]
    (tmp_path / "series.csv").write_text("of,mv\n" + "".join(f"{of},{value}\n" for of in "ab" for value in values))
    (tmp_path / "series.txt").write_text("0.5 -1 2.25 3\n")
    given = run("transform", *values, "--model", "cleaner")
    lines = run("transform", tmp_path / "series.txt", "--model", "cleaner", "--url", served.url)
    columns = run("transform", tmp_path / "series.csv", "--column", "mv", "--by", "of", "--model", "cleaner")
    assert [(row["step"], row["value"]) for row in given.rows] == [*enumerate(values, start=1)]
    for rows in (given.rows, lines.rows, columns.rows[:4], columns.rows[4:]):
        assert [row["output"] for row in rows] == pytest.approx(outputs, abs=1e-5)
    assert [row["series"] for row in columns.rows] == [*"aaaabbbb"]
    assert {row["line"] for row in lines.rows} == {1}


def test_rows_of_several_columns_become_rows(served: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n4,5,6\n")
    columns = [part for name in "abc" for part in ("--column", name)]
    made = run("transform", tmp_path / "rows.csv", *columns, "--model", "rows").rows
    outputs = answer(served, "/v1/transform", model="rows", items=[{"inputs": [[1, 2, 3], [4, 5, 6]]}])["outputs"]
    assert [row["value"] for row in made] == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_allclose([row["output"] for row in made], outputs, atol=1e-5)


def test_a_series_that_is_none_is_reported_and_the_others_are_written() -> None:
    ended = run("transform", "--model", "cleaner", stdin="1 2\n1 two\n3\n")
    assert (ended.status, [row["line"] for row in ended.rows]) == (1, [1, 1, 3])
    assert ended.stderr.splitlines() == ["baton: stdin, line 2: 'two' is no number"]


# -- classify --------------------------------------------------------------------------------------------------------


def test_recordings_series_and_texts_are_labelled(served: Server, tmp_path: Path) -> None:
    sounds = [0.5 * np.sin(np.arange(300) / period) for period in (3, 20, 50)]
    files = []
    for place, sound in enumerate(sounds):
        files.append(tmp_path / f"{place}.wav")
        files[-1].write_bytes(wav.write(sound, 200))
    heard = run("classify", "--audio", *files, "--model", "listener", "--scores").rows
    assert [(row["file"], row["seconds"]) for row in heard] == [(str(file), 1.5) for file in files]
    for row, sound in zip(heard, sounds, strict=True):
        item = {"audio": wav.encode(wav.write(sound, 200))}
        result = answer(served, "/v1/classify", model="listener", items=[item], scores="all")
        assert row["label"] == result["label"]
        assert row["scores"] == pytest.approx(result["scores"], abs=2e-6)
    values = ["0.5", "-1", "2", "3"]
    (read,) = run("classify", "--series", *values, "--model", "listener", "--url", served.url).rows
    result = answer(served, "/v1/classify", model="listener", items=[{"values": [0.5, -1, 2, 3]}])
    assert read == {name: result[name] for name in ("label", "score", "steps")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--audio"], "name the WAV files"),
        (["--audio", "nowhere.wav"], "nowhere.wav cannot be read: No such file"),
        (["--audio", "--series", "1"], "give --audio or --series, not both"),
        (["--audio", "--file", "a.txt"], "--file is about texts"),
        (["--audio", "a.wav", "--column", "b"], "--column and --format are about texts and series"),
        (["a", "--by", "b"], "--by is about the columns of --series"),
        (["--column", "a", "--column", "b"], "a text is in a single --column"),
        (["--audio", "README.md", "--model", "listener"], "baton: README.md: audio: is no WAV file"),
    ],
)
def test_options_and_files_that_will_not_do_are_one_line(arguments: list[str], says: str) -> None:
    ended = run("classify", *arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_text_behind_two_dashes_may_begin_with_a_dash() -> None:
    assert [row["text"] for row in run("classify", "--model", "sentiment", "--", "--great film", "-bad").rows] == [
        "--great film",
        "-bad",
    ]
    assert "no such option: --great" in run("classify", "--model", "sentiment", "--great", "--", "film").stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "a\udcff"], "the prompt is not in UTF-8"),
        (["generate", "a", "--stop", "\udcff"], "--stop is not in UTF-8"),
        (["generate", "-"], "stdin is not in UTF-8"),
        (["tag", "a", "a\udcff"], "text 2 is not in UTF-8"),
        (["classify", "\udcff"], "text 1 is not in UTF-8"),
        (["classify", "-"], "stdin is not in UTF-8"),
    ],
)
def test_bytes_that_are_no_text_are_one_line(arguments: list[str], says: str) -> None:
    ended = run(*arguments, stdin=b"a\xff")
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"baton: {says} (")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tag", "a", "--column", "b"], "--column and --format are about a file or stdin, and the arguments are texts"),
        (["classify", "a", "--format", "csv"], "--column and --format are about a file or stdin"),
        (["classify", "--series", "1", "--format", "csv"], "--format is about a file or stdin"),
        (["step", "cleaner-live", "1,2,3,4", "--column", "b"], "--column and --format are about a file or stdin"),
        (["transform", "1", "nan", "2"], "the series: 1 of 3 have no value, the first at value 1; gaps are refused"),
        (["classify", "--series", "nan"], "the series: 1 of 1 have no value, the first at value 0; gaps are refused"),
    ],
)
def test_what_has_no_effect_and_gaps_are_refused(arguments: list[str], says: str) -> None:
    ended = run(*arguments)
    assert (ended.status, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"baton: {says}")


# -- step ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "steps", "output"),
    [("tagger-live", ["good film"], "scores"), ("cleaner-live", ["1,2,3,4", "5,6,7,8"], "clean")],
)
def test_a_model_of_the_new_tasks_that_streams_takes_steps(model: str, steps: list[str], output: str) -> None:
    rows = run("step", model, *steps).rows
    assert [row["step"] for row in rows] == [1, 2, 3][: len(rows)]
    assert all(output in row for row in rows)
    assert len(rows) >= 2
