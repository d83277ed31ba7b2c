"""The bench of peers without any peer: its graphs, its clients against the service, and how it tells what failed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from conftest import ROOT
from tokenizers import Tokenizer

from loadtests.models import GRAPH_FILE, STEP_MODEL, TEXT_MODEL, text_of, write_references
from loadtests.peers import analyzer, measure, table
from loadtests.peers.apps.reader import Reader
from loadtests.peers.catalogue import OURS, SERVERS, Baton, Place, Server
from loadtests.peers.environments import REQUIREMENTS, PeerError, pinned, prepare, requirements
from loadtests.peers.processes import free_ports, running
from loadtests.peers.sessions import BatonBinary, BatonJson, BatonToken, Session, TritonBinary, TritonJson
from loadtests.peers.steps import load_steps
from loadtests.peers.texts import Form, check_answers, draw_rows
from loadtests.serving import Running, baton

ROWS = draw_rows(2, 60)
MISSING = Path("/nowhere/python")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_references(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def reader(models: Path) -> Reader:
    return Reader(models / TEXT_MODEL / "1" / GRAPH_FILE, threads=1)


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with baton(models, tmp_path_factory.mktemp("service"), BATON_WORKERS="1") as server:
        yield server


def test_rows_of_different_lengths_are_read_together_as_alone(reader: Reader) -> None:
    together = reader.read(ROWS[:16])
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, np.concatenate([reader.read([row]) for row in ROWS[:16]]), atol=1e-6)
    assert np.abs(np.diff(together[:, 0])).min() > 1e-5  # so that an answer of another row would be seen


def test_a_text_is_read_as_the_ids_it_was_made_of(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / TEXT_MODEL / "1" / "tokenizer.json"))
    assert all(tokenizer.encode(text_of(row)).ids == row for row in ROWS)


@pytest.mark.parametrize("way", OURS)
def test_the_service_answers_texts_as_the_graph_does(service: Running, reader: Reader, way: str) -> None:
    check_answers(service, OURS[way].form, ROWS, reader)


def test_an_answer_of_another_row_is_not_believed(service: Running, reader: Reader) -> None:
    ours = OURS["baton"].form
    wrong = Form(ours.path, lambda row: ours.encode(row[::-1]), ours.decode)
    with pytest.raises(PeerError, match="where the graph gives"):
        check_answers(service, wrong, ROWS, reader)


def test_a_refusal_is_told_with_what_the_server_said(service: Running, reader: Reader) -> None:
    ours = OURS["baton"].form
    wrong = Form(ours.path, lambda row: {"ids": row}, ours.decode)
    with pytest.raises(PeerError, match=r"tokens get 422: .*inputs is missing"):
        check_answers(service, wrong, ROWS, reader)


@pytest.mark.parametrize("kind", [kind for way in OURS.values() for kind in way.sessions])
def test_sessions_take_steps_and_end_where_the_graph_does(service: Running, models: Path, kind: type[Session]) -> None:
    found = load_steps(service, kind, models / STEP_MODEL / "1" / GRAPH_FILE, sessions=3, warm_s=0.05, seconds=0.1)
    assert found.steps_per_s > 0
    assert 0 < found.p50_ms <= found.p99_ms


class Forgetful(BatonToken):
    """A session that begins anew at its third step."""

    def _request(self, place: int, last: bool) -> bytes:
        if self.steps == 2:
            self.steps = 0
            request = super()._request(place, last)
            self.steps = 2
            return request
        return super()._request(place, last)


def test_a_session_that_lost_its_state_is_not_believed(service: Running, models: Path) -> None:
    with pytest.raises(PeerError, match="from that of the graph over its steps"):
        load_steps(service, Forgetful, models / STEP_MODEL / "1" / GRAPH_FILE, sessions=2, warm_s=0, seconds=0.01)


def test_a_step_that_is_refused_ends_the_load(service: Running, models: Path) -> None:
    with pytest.raises(PeerError, match="404 Not Found"):
        load_steps(service, TritonJson, models / STEP_MODEL / "1" / GRAPH_FILE, sessions=2, warm_s=0, seconds=0.1)


def test_a_server_is_ended_with_all_its_processes(models: Path, reader: Reader, tmp_path: Path) -> None:
    plain = SERVERS["plain-cores"]
    assert plain.form is not None
    with plain.start(Place(models, tmp_path, tmp_path)) as server:
        check_answers(server, plain.form, ROWS, reader)
        tree = [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]
    assert not [pid for pid in tree if psutil.pid_exists(pid)]


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such library')"]
    (port,) = free_ports(1)
    with (
        pytest.raises(PeerError, match="does not start: no such library"),
        running(command, {}, tmp_path, port, httpx.get),
    ):
        pass


def test_an_environment_is_kept_as_long_as_its_requirements_stand(tmp_path: Path) -> None:
    kept = tmp_path / "litserve" / "installed.txt"
    kept.parent.mkdir()
    kept.write_text(requirements("litserve").read_text())
    assert prepare("litserve", tmp_path, MISSING) == kept.parent
    kept.write_text("litserve==0.0.1\n")
    with pytest.raises(PeerError, match=str(MISSING)):
        prepare("litserve", tmp_path, MISSING)


def test_every_peer_has_its_requirements_with_the_service_s_onnxruntime() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    named = {server.environment.name for server in SERVERS.values() if server.environment}
    assert {file.stem for file in REQUIREMENTS.iterdir()} == named | {analyzer.NAME}
    assert {pinned(name, "onnxruntime") for name in named} == {constraints["onnxruntime"]}


def test_a_peer_that_cannot_be_installed_is_a_result_with_its_reason(models: Path, tmp_path: Path) -> None:
    peer = SERVERS["litserve"]
    assert peer.environment is not None
    broken: dict[str, Server | Baton] = {
        "litserve": replace(peer, environment=replace(peer.environment, python=MISSING))
    }
    found = measure.measure(broken, rounds=2, seconds=1, cache=tmp_path)
    assert str(MISSING) in found["litserve"]["failed"][measure.START]


def text_rounds(*requests_per_s: float, errors: int = 1) -> list[dict[str, Any]]:
    same = {"p99_ms": 10.0, "errors": errors, "cores": {"other": 0.25}}
    return [{"requests_per_s": each, **same} for each in requests_per_s]


def step_rounds(*steps_per_s: float) -> list[dict[str, Any]]:
    same = {"p50_ms": 1.0, "p99_ms": 2.0, "server_us_per_step": 100.0, "client_cores": 0.1}
    return [{"steps_per_s": each, **same} for each in steps_per_s]


def result(**servers: dict[str, Any]) -> dict[str, Any]:
    shown = {"version": "1", "workers": 2, "threads": 1, "options": "none", "failed": {}}
    return {
        "date": "2026-01-02",
        "commit_date": "2026-01-01",
        "machine": {"cores": 2, "processor": "a processor"},
        "versions": {"Python": "3"},
        "timing": {"rounds": 2, "seconds": 1},
        "servers": {name: {"title": name, **shown, **server} for name, server in servers.items()},
    }


def test_the_table_has_medians_and_ratios_within_rounds() -> None:
    ours = {"tokens-25": text_rounds(200, 400), "tokens-mixed": text_rounds(100, 100), "stream": step_rounds(30, 10)}
    tensors = {"tokens-25": text_rounds(300, 300), "tokens-mixed": text_rounds(50, 50)}
    theirs = {"tokens-25": text_rounds(100, 100), "tokens-mixed": text_rounds(50, 25)}
    triton = {TritonJson.title: step_rounds(10, 10), TritonBinary.title: step_rounds(20, 20)}
    loads = {"baton": ours, "baton-v2": tensors, "other": theirs, "batcher": triton}
    page = table.page(result(**{name: {"loads": each} for name, each in loads.items()}))
    assert "| other | 100 /s | 10 ms | 3.00 | 3.00 | 38 /s | 10 ms | 3.00 | 1.50 | 4 |" in page
    assert "| baton-v2 | 300 /s | 10 ms |  |  | 50 /s | 10 ms |  |  | 4 |" in page
    assert "| stream | 20 | 1.0 ms | 2.0 ms | 100 us | 0.10 cores | 2.00 | 1.00 |" in page
    assert "which were 2 workers here" in page
    assert "everything else here used 0.25 cores" in page


def test_what_is_wanted_of_v2_is_met_or_missed() -> None:
    """It is compared within rounds; a load that failed, and one in which requests failed, are missed."""
    ours = {
        "tokens-25": text_rounds(160, 320, errors=0),
        "tokens-mixed": text_rounds(600, 600, errors=1),
        BatonJson.title: step_rounds(89, 89),
        BatonBinary.title: [],
    }
    core = {"tokens-25": text_rounds(100, 200, errors=0), "tokens-mixed": text_rounds(100, 100, errors=0)}
    batcher = {TritonJson.title: step_rounds(100, 100), TritonBinary.title: step_rounds(100, 100)}
    servers: dict[str, dict[str, Any]] = {
        "baton": {"loads": {load: text_rounds(1, 1) for load in measure.TOKENS}},
        "baton-v2": {"loads": ours, "failed": {BatonBinary.title: "late"}},
        "triton": {"loads": core},
        "triton-sequence": {"loads": batcher},
    }
    page = table.page(result(**servers))
    assert "| one row of 25 ids as JSON, over Triton's core | 240 /s | 150 /s | 1.60 | ≥ 1.6 | met |" in page
    assert "| 600 /s | 100 /s | 6.00 | ≥ 6 | **missed: requests failed** |" in page
    assert "| sequences, over Triton's, JSON | 89 /s | 100 /s | 0.89 | ≥ 0.9 | **missed** |" in page
    assert "| sequences, over Triton's, binary |  |  |  | ≥ 1.1 | **missed: the load failed** |" in page
    servers["triton"]["failed"] = {measure.START: "no Python"}
    del servers["triton-sequence"]
    assert "≥" not in table.page(result(**servers)), "there is nothing to compare with"


def test_what_failed_is_in_the_table_with_its_reason() -> None:
    ours = {"tokens-25": text_rounds(200), "tokens-mixed": text_rounds(100)}
    tensors = {"tokens-25": text_rounds(200), "tokens-mixed": []}
    theirs = {"tokens-25": text_rounds(100), "tokens-mixed": []}
    page = table.page(
        result(
            **{
                "baton": {"loads": ours},
                "baton-v2": {"loads": tensors, "failed": {"tokens-mixed": "late"}},
                "one": {"loads": theirs, "failed": {"tokens-mixed": "no\nanswer"}},
                "none": {"loads": {"tokens-25": [], "tokens-mixed": []}, "failed": {measure.START: "no Python"}},
                "two": {"loads": ours},
            }
        )
    )
    assert "| one | 100 /s | 10 ms | 2.00 | 2.00 | failed (2) |  |  |  | 1 |" in page
    assert "| none | failed (3) |  |  |  | failed (3) |  |  |  | 0 |" in page
    assert "| two | 200 /s | 10 ms | 1.00 | 1.00 | 100 /s | 10 ms | 1.00 |  | 2 |" in page
    assert "1. baton-v2: late\n2. one: no answer\n3. none: no Python" in page


def test_an_unknown_peer_is_refused_with_those_that_exist() -> None:
    command = [sys.executable, "-m", "loadtests.peers", "trition"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "trition" in ended.stderr
    assert "triton-sequence" in ended.stderr
