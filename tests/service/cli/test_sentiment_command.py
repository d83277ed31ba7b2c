"""`baton sentiment`: where texts come from, where labels go, and what is said of those that have none."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import tiny
from commands import run
from conftest import ROOT, Server, baton
from handlers import QuietHandler, handled_by
from keyring import Keyring

pytestmark = pytest.mark.usefixtures("command_settings")

TEXTS = ["a good film", "not very good !", "bad", 'very bad, "not" a film', "good; very good", "a", "film !"]


def write_text(file: Path) -> list[str]:
    file.write_text("\n\n".join(TEXTS))
    return []


def write_csv(file: Path) -> list[str]:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([["id", "review"], *enumerate(TEXTS)])
    return ["--column", "review"]


def write_semicolons(file: Path) -> list[str]:
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        csv.writer(out, delimiter=";").writerows([["id", "review"], *enumerate(TEXTS)])
    return ["--column", "review"]


def write_lines(file: Path) -> list[str]:
    file.write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    return []


def write_objects(file: Path) -> list[str]:
    file.write_text("".join(json.dumps({"review": text}) + "\n" for text in TEXTS))
    return ["--column", "review"]


def write_parquet(file: Path) -> list[str]:
    pyarrow.parquet.write_table(pyarrow.table({"review": TEXTS}), file)
    return []


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("texts.txt", write_text),
        ("texts.csv", write_csv),
        ("semicolons.csv", write_semicolons),
        ("texts.jsonl", write_lines),
        ("objects.jsonl", write_objects),
        ("texts.parquet", write_parquet),
    ],
)
def test_every_form_of_input_is_labelled_alike(name: str, write: object, tmp_path: Path) -> None:
    options = write(tmp_path / name)  # type: ignore[operator]
    given, read = run("sentiment", *TEXTS), run("sentiment", "--file", tmp_path / name, *options)
    rows = read.rows
    lines = [row.pop("line") for row in rows]
    first = 2 if name.endswith(".csv") else 1
    assert lines == list(range(first, first + 2 * len(TEXTS), 2 if name.endswith(".txt") else 1))[: len(TEXTS)]
    assert (read.status, rows) == (0, given.rows)
    kind = {".txt": "text"}.get(Path(name).suffix, Path(name).suffix[1:])
    piped = run("sentiment", "--format", kind, *options, stdin=(tmp_path / name).read_bytes())
    assert piped.stdout == read.stdout


def test_many_requests_answer_as_one_text_each_would_in_process_and_at_a_service(command_server: Server) -> None:
    together, there = run("sentiment", *TEXTS), run("sentiment", *TEXTS, "--url", command_server.url)
    assert [row["text"] for row in together.rows] == TEXTS
    for row, other, text in zip(together.rows, there.rows, TEXTS, strict=True):
        (alone,) = run("sentiment", text).rows
        assert row["text"] == alone["text"] == other["text"] == text
        assert row["label"] == alone["label"] == other["label"]
        assert [alone["score"], other["score"]] == pytest.approx([row["score"]] * 2, abs=1e-5)


def test_an_item_that_fails_is_reported_with_its_line_and_the_others_are_written(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('"good"\n"  "\n"bad"\n"a"\n""\n"film"\n')
    ended = run("sentiment", "--file", tmp_path / "texts.jsonl")
    assert (ended.status, [row["text"] for row in ended.rows]) == (1, ["good", "bad", "a", "film"])
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"baton: {tmp_path}/texts.jsonl, line 2: ")
    assert "(see docs/errors.md#empty_input)" in first
    assert ", line 5: " in second


def test_a_text_that_no_request_can_hold_is_reported_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_MAX_BODY_BYTES", "1024")
    ended = run("sentiment", "good", "a " * 600, "bad")
    assert (ended.status, [row["text"] for row in ended.rows]) == (1, ["good", "bad"])
    assert "body_too_large" in ended.stderr


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_every_form_of_output_has_the_same_rows(name: str, tmp_path: Path) -> None:
    printed = run("sentiment", "--scores", *TEXTS).rows
    assert run("sentiment", "--scores", *TEXTS, "--output", tmp_path / name).stdout == ""
    if name.endswith(".jsonl"):
        assert [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] == printed
    elif name.endswith(".csv"):
        with (tmp_path / name).open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [row["text"] for row in read] == TEXTS
        assert [float(row["scores.positive"]) for row in read] == [row["scores"]["positive"] for row in printed]
    else:
        table = pyarrow.parquet.read_table(tmp_path / name)
        assert table.column("scores.positive").to_pylist() == [row["scores"]["positive"] for row in printed]


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["good", "--model", "zebra"], "", "no model is called 'zebra'"),
        (["good", "--model", "forecast"], "", "(see docs/errors.md#wrong_task)"),
        (["--file", "nowhere.csv"], "", "nowhere.csv is no file"),
        (["--file", "pyproject.toml"], "", "pyproject.toml: what is in it? Say it with --format: text, csv"),
        (["good", "--file", "README.md"], "", "give texts, or --file, not both"),
        (["--format", "csv"], "id,text\n1,good\n", "stdin has several columns; name one with --column: id, text"),
        (["--format", "csv", "--column", "txt"], "id,text\n1,good\n", "no column 'txt'; it has id, text"),
        (["--format", "csv", "--column", "text"], "id,text\n1\n", "stdin, line 2: 1 cells, where the header has 2"),
        (["--format", "jsonl"], '"good"\n{"a"\n', "stdin, line 2: no JSON"),
        (["--format", "jsonl"], "5\n", "stdin, line 1: no text: 5"),
        (["--column", "text"], "good\n", "read as lines of text, which have no column 'text'"),
        (["-"], "", "there are no texts"),
        (["good", "--url", "127.0.0.1:8000"], "", "baton: 127.0.0.1:8000 is no URL"),
        (["good", "--url", "http://127.0.0.1:notaport"], "", "http://127.0.0.1:notaport is no URL"),
        (["good", "--api-key", "schl\u00fcssel"], "", "the API key holds what no header can carry"),
        (["--format", "csv"], "", "stdin is empty"),
        (["--format", "csv", "--column", "text"], "text,text\ngood,bad\n", "stdin has 2 columns 'text'"),
        (["good", "--url", "http://127.0.0.1:9"], "", "http://127.0.0.1:9 does not answer as a Baton service"),
        (["good", "--output", "labels.xlsx"], "", "must end with one of .csv, .jsonl, .parquet"),
        (["good", "--output", "nowhere/labels.csv"], "", "nowhere/labels.csv cannot be written"),
    ],
)
def test_what_will_not_do_is_one_line_that_says_what_would(arguments: list[str], stdin: str, says: str) -> None:
    ended = run("sentiment", *arguments, stdin=stdin)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_bytes_that_are_no_utf8_are_refused() -> None:
    assert "not in UTF-8" in run("sentiment", stdin=b"good\n\xff\xfe\n").stderr


def test_misuse_has_a_status_of_its_own() -> None:
    assert run("sentiment", "--zebra").status == 2


def test_parquet_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_parquet(tmp_path / "texts.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    ended = run("sentiment", "--file", tmp_path / "texts.parquet")
    assert (ended.status, "pip install 'baton-serving[parquet]'" in ended.stderr) == (1, True)


def test_a_key_is_asked_for_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keyring("acme")
    monkeypatch.setenv("BATON_API_KEYS", keys.setting)
    assert "give the key with --api-key" in run("sentiment", "good").stderr
    assert run("sentiment", "good", "--api-key", keys["acme"]).status == 0
    monkeypatch.setenv("BATON_CLIENT_API_KEY", keys["acme"])
    assert run("sentiment", "good").status == 0


@contextmanager
def busy_service() -> Iterator[tuple[str, list[str]]]:
    """A service that has no room for a request when it first comes."""
    calls: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._answer(200, {"limits": {"max_items": 1, "max_body_bytes": 1000}})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            calls.append(body)
            if calls.count(body) == 1:
                self._answer(429, {"error": {"code": "overloaded", "message": "full", "retry_after_ms": 1}})
            else:
                self._answer(
                    200, {"results": [{"index": 0, "id": None, "label": json.loads(body)["inputs"][0]["text"]}]}
                )

        def _answer(self, status: int, content: object) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    with handled_by(Handler) as url:
        yield url, calls


def test_a_service_without_room_is_waited_for() -> None:
    with busy_service() as (url, calls):
        ended = run("sentiment", *TEXTS, "--url", url)
    assert [row["label"] for row in ended.rows] == TEXTS
    assert len(calls) == 2 * len(TEXTS)


def test_a_version_that_is_not_sound_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny.sentiment(tmp_path) / "model.onnx").write_bytes(b"changed")
    monkeypatch.setenv("BATON_MODELS_DIR", str(tmp_path))
    ended = baton("sentiment", "good", **os.environ)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"{tmp_path}/sentiment/1/manifest.json: sha256: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_terminal_gets_a_table_and_a_progress_bar(tiny_models: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environment = {"BATON_MODELS_DIR": str(tiny_models), "BATON_STATE_DIR": str(tmp_path), "BATON_MAX_ITEMS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "service", "sentiment", *TEXTS[:3]],
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, **environment, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert all(text in shown.decode() for text in ("label", "polarity", "/3", *TEXTS[:3]))
    assert "{" not in shown.decode()
