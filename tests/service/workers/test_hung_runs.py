"""A run that does not end: the version is fenced off everywhere, its worker is replaced, and other models answer on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tiny
import tiny_hostile
import tiny_wild
from conftest import Server, ServerFactory
from each_worker import each_worker
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

WORKERS = 2
BOUND = 1000
LIMIT = {"BATON_RUN_LIMIT_S": "3"}
SAYS = "version 2 of 'stepper' had a run of more than 3 s; it is not served until it is loaded anew"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model that never ends where a value is beyond BOUND, and a sound one beside it."""
    tiny_wild.endless_beyond(tmp_path / "models", BOUND)
    tiny.number_stepper(tmp_path / "models")
    return tmp_path / "models"


def step(client: httpx.Client, value: float) -> httpx.Response:
    return client.post("/v1/step", json={"model": "stepper", "items": [{"inputs": [[value, 0]]}]})


def hang(server: Server) -> None:
    answer = step(server.client, BOUND + 1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_failed")
    assert "the run took more than 3 s" in answer.json()["error"]["message"]


def assert_fenced_off(client: httpx.Client) -> None:
    """The version answers nothing; the service is ready, and the other model answers."""
    refused = step(client, 1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert SAYS in refused.json()["error"]["message"]
    assert "retry-after" in refused.headers
    assert client.get("/v2/models/stepper/ready").status_code == 503
    lines = {line["name"]: line["state"] for line in client.post("/v2/repository/index").json()}
    assert lines == {"numbers": "READY", "stepper": "UNAVAILABLE"}
    assert client.get("/readyz").status_code == 200
    sound = client.post("/v1/step", json={"model": "numbers", "items": [{"values": [1, 1]}]}).json()
    assert sound["results"][0]["outputs"] == {"total": [3.0]}


def reload(server: Server, workers: int) -> None:
    start = len(server.lines)
    server.process.send_signal(signal.SIGHUP)
    for _ in range(workers):
        start += len(server.lines_since(start, until="models reloaded"))


@pytest.fixture
def pair(models: Path, tmp_path: Path, start_server: ServerFactory) -> Iterator[Server]:
    server = start_server(models, tmp_path / "state", BATON_WORKERS=str(WORKERS), **LIMIT)
    yield server
    server.stop()
    assert server.process.returncode == 0


def test_a_worker_with_a_run_that_does_not_end_is_replaced_and_nobody_runs_the_version_any_more(pair: Server) -> None:
    start = len(pair.lines)
    hang(pair)
    told = pair.lines_since(start, until="Application startup complete")
    assert any("stepper 2 had a run of more than 3 s here" in line for line in told)
    assert any("is replaced" in line for line in told)
    for _ in range(WORKERS):  # the one that is left, and the new one
        start += len(pair.lines_since(start, until="stepper 2 had a run of more than 3 s in another worker"))
    with each_worker(pair, WORKERS) as clients:
        for client in clients.values():
            assert_fenced_off(client)
    assert pair.metric("baton_hung_runs_total", "model", "stepper") == 1


def test_a_version_that_is_loaded_anew_is_run_again_by_every_worker(pair: Server) -> None:
    start = len(pair.lines)
    hang(pair)
    pair.lines_since(start, until="Application startup complete")
    reload(pair, WORKERS)
    with each_worker(pair, WORKERS) as clients:
        for client in clients.values():
            assert step(client, 1).json()["summary"] == {"ok": 1, "failed": 0}
    assert pair.metric("baton_model_info", "model", "stepper") == 1


def test_a_single_process_serves_on_without_the_version_and_ends_when_it_is_told_to(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(models, tmp_path / "state", **LIMIT)
    hang(server)
    assert_fenced_off(server.client)
    reload(server, 1)
    assert step(server.client, 1).json()["summary"] == {"ok": 1, "failed": 0}
    hang(server)
    server.stop()


def test_a_text_that_a_tokenizer_does_not_come_to_an_end_with_counts_as_such_a_run(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    """Each of its words costs a regular expression four million steps."""
    slow = Split(Regex("(a+)+b| "), "isolated")
    tiny_hostile.set_tokenizer(tiny.sentiment(tmp_path / "models"), pre_tokenizer=slow)
    tiny.number_stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", **LIMIT)
    for text in ("a" * 22 + " ") * 4000, "good":
        refused = server.post("/v1/sentiment", {"inputs": [text]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    server.stop()
