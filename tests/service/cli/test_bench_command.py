"""`baton bench`, against real services and one that answers wrongly on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_conditions
import tiny_kinds
import tiny_pens
import tiny_plain
import tiny_sequences
from conftest import ROOT, Server, baton
from keyring import Keyring
from typer.testing import CliRunner, Result

from service.cli.command import app
from service.contract.tasks import TASKS

KEYS = Keyring("shop")
KEY = KEYS["shop"]
# Of more connections each takes fewer steps: the model `numbers` doubles its state with each, and bears 128.
SHORT = ("--duration", "0.1", "--connections", "8")
KINDS = (
    *("sentiment", "forecast", "weather", "stepper", "numbers", "reader", "visits", "words"),
    *("tagger-live", "cleaner", "rows", "listener", "rows-kind", "translate"),
    *("penman", "captioner", "rows-reader"),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over models of every task, which asks for a key."""
    models = tiny.all_models(tmp_path_factory.mktemp("models"))
    tiny_kinds.weather(models)
    tiny_plain.visits(models)
    tiny_plain.words(models)
    tiny_sequences.live_tagger(models, text=tiny.text_settings(polarity=None, max_length=64))
    tiny_sequences.cleaner(models)
    tiny_sequences.cleaner(models, samples=3, rate=None, name="rows")
    tiny_sequences.listener(models)
    tiny_sequences.listener(models, samples=2, rate=None, name="rows-kind")
    tiny_conditions.all_conditioned(models)
    tiny_pens.penman(models)
    server = Server(models, tmp_path_factory.mktemp("state"), BATON_API_KEYS=KEYS.setting)
    server.client.headers["authorization"] = f"Bearer {KEY}"
    yield server
    server.stop()


def bench(url: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["bench", url, *SHORT, *options])


@pytest.mark.parametrize("model", KINDS)
def test_a_typical_call_of_each_kind_of_model_is_answered(served: Server, model: str) -> None:
    run = bench(served.url, "--api-key", KEY, "--model", model, "--json")
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    facts = served.client.get(f"/v1/models/{model}").json()
    assert (found["model"], found["version"], found["task"]) == (model, "1", facts["task"])
    assert found["answers"] > 0
    assert found["answers"] == pytest.approx(found["requests_per_s"] * found["seconds"], rel=0.01)
    assert found["items_per_s"] == found["requests_per_s"]
    assert (found["refusals"], found["errors"]) == ({}, {})
    times = found["times_ms"]
    assert times.keys() == ({"latency"} if facts["task"] == "tensor" else {"latency", "queue", "run", "total"})
    assert all(0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"] for row in times.values())


def test_every_task_has_a_typical_call(served: Server) -> None:
    assert {served.client.get(f"/v1/models/{model}").json()["task"] for model in KINDS} == set(TASKS)


@pytest.mark.parametrize("model", ["stepper", "penman"])
def test_each_connection_steps_through_a_session_of_its_own(served: Server, model: str) -> None:
    before = served.metric("baton_tokens_opened_total", "model", model)
    found = json.loads(bench(served.url, "--api-key", KEY, "--model", model, "--json").stdout)
    opened = served.metric("baton_tokens_opened_total", "model", model) - before
    assert opened >= found["answers"] - 2  # the first call of each of the two has no token


def test_own_bodies_are_sent_in_turn_and_their_items_counted(served: Server, tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_text('{"inputs": ["good", "bad film"]}\n')
    run = bench(served.url, "--api-key", KEY, "--model", "sentiment", "--input", str(file), "--json")
    found = json.loads(run.stdout)
    assert found["items_per_s"] == pytest.approx(2 * found["requests_per_s"], abs=0.2)


def test_own_tensors_go_over_the_open_inference_protocol(served: Server, tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    of_steps = [{"name": n, "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]} for n in ("words", "marks")]
    suffix = {"name": "suffix", "datatype": "BYTES", "shape": [1], "data": ["c"]}
    file.write_text(json.dumps({"inputs": [*of_steps, suffix]}) + "\n")
    run = bench(served.url, "--api-key", KEY, "--model", "words", "--input", str(file), "--json")
    assert (run.exit_code, json.loads(run.stdout)["errors"]) == (0, {})


def test_an_item_that_fails_is_an_error_and_ends_with_status_1(served: Server, tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_text('{"inputs": ["good", ""]}\n')
    run = bench(served.url, "--api-key", KEY, "--model", "sentiment", "--input", str(file))
    assert run.exit_code == 1
    assert "errors:" in run.stdout
    assert "empty_input: the text has no words" in run.stdout


def test_the_tables_name_the_share_of_the_service(served: Server) -> None:
    shown = bench(served.url, "--api-key", KEY, "--model", "sentiment").stdout
    assert "requests/s" in shown
    assert all(row in shown for row in ("p50", "p99", "latency", "waiting for a run", "in runs", "in the service"))


def test_a_terminal_sees_how_the_load_gets_on(served: Server) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "service", "bench", served.url, "--api-key", KEY, "--model", "sentiment"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*command, "--duration", "1"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # which fails when nobody holds it any more
            while some := terminal.read(4096):
                seen += some
        assert process.stdout is not None
        assert b"requests/s" in process.stdout.read()
    assert process.returncode == 0
    assert b"requests/s, 0 refused, 0 errors" in seen


def test_what_is_wrong_is_one_line(served: Server, tmp_path: Path) -> None:
    (tmp_path / "bodies.jsonl").write_text('{"inputs": ["good"]}\n["bad"]\n')
    (tmp_path / "other.jsonl").write_text('{"model": "spam", "inputs": ["good"]}\n')
    (tmp_path / "empty.jsonl").write_text("")
    with_key = ("--api-key", KEY)
    for options, reason in (
        ((), "; give the key with --api-key"),
        (with_key, "has several models; name one with --model: captioner, cleaner, forecast, listener"),
        ((*with_key, "--model", "none"), "has no model none: captioner, cleaner, forecast, listener"),
        ((*with_key, "--model", "sentiment", "--input", str(tmp_path / "bodies.jsonl")), "bodies.jsonl:2: each line"),
        ((*with_key, "--model", "stepper", "--input", str(tmp_path / "bodies.jsonl")), "with a list 'items'; this is"),
        ((*with_key, "--model", "sentiment", "--input", str(tmp_path / "other.jsonl")), "for the model spam, not for"),
        ((*with_key, "--model", "sentiment", "--input", str(tmp_path / "empty.jsonl")), "empty.jsonl is empty"),
    ):
        ended = baton("bench", served.url, *SHORT, *options)
        assert (ended.returncode, ended.stdout) == (1, ""), ended
        assert ended.stderr.startswith("baton: ")
        assert reason in ended.stderr
        assert ended.stderr.count("\n") == 1


GOOD = {"index": 0, "id": None}
OVERLOADED = {"code": "overloaded", "message": "no room", "retry_after_ms": 20}
ANSWERS: dict[str, tuple[int, bytes]] = {
    "refused": (429, json.dumps({"error": OVERLOADED}).encode()),
    "short": (200, json.dumps({"results": []}).encode()),
    "cut": (200, json.dumps({"results": [GOOD]}).encode()),
    "not 200": (500, json.dumps({"results": [GOOD]}).encode()),
    "no JSON": (502, b"<html>Bad Gateway</html>"),
}


@contextmanager
def answering(status: int, content: bytes, *, cut: bool) -> Iterator[str]:
    """Serve one model, each call of which is answered so; `cut` closes the connection before the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, content: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-1] if cut else content)
            self.close_connection = cut

        def do_GET(self) -> None:
            facts: dict[str, Any] = {"name": "m", "version": "1", "task": "sentiment"}
            listed = self.path == "/v1/models"
            self.answer(200, json.dumps({"models": [facts]} if listed else facts).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, content, cut=cut)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("kind", "counted", "code"),
    [
        ("refused", "refusals", "overloaded"),
        ("short", "errors", "incomplete: 0 results for 1 items"),
        ("cut", "errors", "connection: the connection was closed before the answer was complete"),
        (
            "not 200",
            "errors",
            'status 500 with what is no answer of Baton: b\'{"results": [{"index": 0, "id": null}]}\'',
        ),
        ("no JSON", "errors", "status 502 with what is no answer of Baton: b'<html>Bad Gateway</html>'"),
    ],
)
def test_nothing_but_a_whole_answer_counts_as_one(kind: str, counted: str, code: str) -> None:
    with answering(*ANSWERS[kind], cut=kind == "cut") as url:
        run = bench(url, "--json")
    found = json.loads(run.stdout)
    assert found["answers"] == found["requests_per_s"] == 0
    assert found[counted].keys() == {code}
    assert run.exit_code == 1
    assert "answered none of the calls" in str(run.exception)
