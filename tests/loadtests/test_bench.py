"""What `make bench` asks of the machine, and how it reports; nothing here is timed, and nothing needs wrk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import ROOT, ServerFactory

from loadtests import report
from loadtests.figures import Figure, figures
from loadtests.floors import Tokens, sentiment_limit
from loadtests.models import COMMITTED, STEP_MODEL, TEXT_MODEL, gather_models, newest, write_reader
from loadtests.payloads import MIXED, drawn_texts, sessions, single_texts
from loadtests.requirements import BenchError
from loadtests.scenarios import calls_of_each_kind
from loadtests.serving import Running, baseline, baton, family, pss_mb
from loadtests.workbench import ask, compare_answers
from service.model.repository import read_verified
from training.export.quantize import to_int8


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    command = [sys.executable, "-m", "loadtests.bench", *arguments]
    return subprocess.run(
        command, env={**clean, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def fake_wrk(folder: Path) -> str:
    (folder / "wrk").write_text("#!/bin/sh\n")
    (folder / "wrk").chmod(0o755)
    return str(folder)


def test_a_missing_wrk_is_one_line_that_says_how_to_get_it(tmp_path: Path) -> None:
    ended = bench(PATH=str(tmp_path))
    assert ended.returncode == 1
    assert (ended.stdout, len(ended.stderr.splitlines())) == ("", 1)
    assert "wrk" in ended.stderr
    assert "apt-get install -y wrk" in ended.stderr


def test_missing_data_is_one_line_that_names_the_variable_and_the_file(tmp_path: Path) -> None:
    unnamed, empty = bench(PATH=fake_wrk(tmp_path)), bench(PATH=fake_wrk(tmp_path), BATON_DATA_DIR=str(tmp_path))
    for ended in (unnamed, empty):
        assert ended.returncode == 1
        assert len(ended.stderr.splitlines()) == 1
        assert "BATON_DATA_DIR" in ended.stderr
        assert "sst2/test.tsv" in ended.stderr


def test_an_unknown_scenario_is_refused_with_those_that_exist() -> None:
    ended = bench("step-2")
    assert ended.returncode == 1
    assert "step-2" in ended.stderr
    assert "step-16" in ended.stderr


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (Figure("speed", "5 /s", 0.5, "10 /s", at_least=0.65), "| speed | 5 /s | 10 /s | 0.50 | ≥ 0.65 | **missed** |"),
        (Figure("speed", "8 /s", 0.8, "10 /s", at_least=0.65), "| speed | 8 /s | 10 /s | 0.80 | ≥ 0.65 | met |"),
        (Figure("padding", "1.2", 1.2, at_most=1.15), "| padding | 1.2 |  |  | ≤ 1.15 | **missed** |"),
        (
            Figure("speed", "8 /s", 0.8, "10 /s", at_least=0.65, spoilt="requests failed"),
            "| speed | 8 /s | 10 /s | 0.80 | ≥ 0.65 | **missed: requests failed** |",
        ),
    ],
)
def test_a_figure_says_whether_it_is_met(figure: Figure, shown: str) -> None:
    assert figure.row() == shown


FACTS: dict[str, Any] = {
    "date": "2026-01-02",
    "commit_date": "2026-01-01",
    "machine": {"cores": 2, "processor": "a processor"},
    "versions": {},
    "timing": {"rounds": 5, "seconds": 2.0},
    "workers": 2,
}


def outcome(**changes: Any) -> dict[str, Any]:
    measured = {
        "arrivals": 100,
        "offered_per_s": 300.0,
        "sent_per_s": 300.0,
        "send_delay_p99_ms": 0.1,
        "statuses": {"200": 40, "429": 60},
        "connection_errors": 0,
        "unanswered": 0,
        "refused_without_retry_after": 0,
        "goodput_per_s": 95.0,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
        "cpu": 0.1,
        "of_peak": 3.0,
        "peaks_per_s": [100.0, 100.0],
        "pss_mb": [100.0, 102.0, 103.0, 101.0],
        "cores": {"client": 0.1, "server": 1.5, "other": 0.0, "server_s": 1.5},
    }
    return {**measured, **changes}


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"goodput_per_s": 89.0}, [0]),
        ({"refused_without_retry_after": 1}, [1]),
        ({"statuses": {"200": 40, "429": 59, "503": 1}}, [1]),
        ({"statuses": {"200": 40, "429": 59}}, [1]),
        ({"statuses": {"200": 100}}, [1]),
        ({"p99_ms": 2001.0}, [2]),
        ({"p99_ms": None}, [2]),
        ({"pss_mb": [100.0, 102.0, 103.0, 120.0]}, [3]),
        ({"cpu": 0.95}, [0, 1, 2, 3]),
    ],
    ids=[
        *("all met", "few answers", "no Retry-After", "another status", "no answer", "nothing refused"),
        *("slow answers", "no answers", "memory grows", "a busy generator"),
    ],
)
def test_overload_is_judged_by_goodput_refusals_waits_and_memory(changes: dict[str, Any], missed: list[int]) -> None:
    found = figures({"overload": outcome(**changes)})
    assert [number for number, figure in enumerate(found) if not figure.met] == missed


def test_resets_and_silence_stand_beside_the_refusals() -> None:
    lost = outcome(statuses={"200": 40, "429": 50, "503": 2}, connection_errors=5, unanswered=3)
    head, _, row = report.page({**FACTS, "scenarios": {"overload": lost}}).splitlines()[-3:]
    shown = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True))
    assert [shown[name] for name in ("429", "other status", "reset", "no answer")] == ["50", "2", "5", "3"]
    assert shown["generator's CPU"] == "0.10"


def test_a_ratio_is_the_median_of_the_rounds_ratios_and_failed_items_spoil_it() -> None:
    def scenario(failed_items: int) -> dict[str, Any]:
        rounds = [
            {
                "floors": {"in_process": floor},
                "load": {"items_per_s": served, "errors": 0},
                "batching": {"failed_items": failed_items},
            }
            for floor, served in ((100.0, 90.0), (50.0, 45.0), (100.0, 10.0))
        ]
        return {"sentiment-32": {"connections": 8, "rounds": rounds}}

    (clean,), (spoilt,) = figures(scenario(0)), figures(scenario(1))
    assert clean.value == pytest.approx(0.9)
    assert (clean.met, spoilt.met) == (True, False)


def closed(rate: float, **floors: float) -> dict[str, Any]:
    load = {"items_per_s": rate, "errors": 0, "cpu_us": 200.0}
    rounds = [{"floors": floors, "load": load, "batching": {"failed_items": 0, "padding": 1.0}}]
    return {"connections": 32, "rounds": rounds}


def test_the_plain_handler_counts_with_the_number_of_workers_that_is_better_for_it() -> None:
    for better in ("plain-1", "plain-2"):
        raw = closed(250.0, in_process=300.0, **{"plain-1": 50.0, "plain-2": 50.0, better: 100.0})
        _, over_plain = figures({"tokens-25": raw})
        assert over_plain.value == 2.5
        assert f"{better[-1]} worker" in over_plain.what


def test_a_held_step_is_judged_by_its_time_and_any_step_by_processor_time() -> None:
    (held,) = figures({"step-held": closed(100.0, token=130.0)})
    assert held.value == pytest.approx(1.3)
    over_echo, cpu = figures({"step-1": closed(65.0, echo=100.0)})
    assert (over_echo.value, cpu.value, cpu.met) == (0.65, 200.0, True)


def test_the_head_says_how_many_workers_the_service_had() -> None:
    assert "default settings, which gave it 2 workers" in report.page({**FACTS, "scenarios": {}})


def test_writing_between_markers_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# By hand\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n## Log\n")
    report.write_between(page, "bench", "new")
    assert page.read_text() == "# By hand\n<!-- bench:begin -->\n\nnew\n\n<!-- bench:end -->\n## Log\n"
    with pytest.raises(BenchError, match="soak:begin"):
        report.write_between(page, "soak", "new")


def test_the_page_has_the_markers_that_are_written_between(tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    for name in ("bench", "soak"):
        report.write_between(copy, name, f"new {name}")
        assert f"new {name}" in copy.read_text()


def test_the_reference_model_carries_4_kib_and_its_steps_go_on_from_tokens(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    (tmp_path / "models").mkdir()
    models = gather_models(tmp_path / "models")
    assert read_verified(models / STEP_MODEL / "1").state_bytes == 4096
    server = start_server(models, tmp_path / "state")
    pool = sessions(tmp_path, server.url or "", 2)
    answer = server.post(pool.path, json.loads(pool.bodies[0])).json()
    assert [result["step"] for result in answer["results"]] == [2, 2]
    assert pool.file.read_bytes().splitlines() == pool.bodies
    held = sessions(tmp_path, server.url or "", 1, hold="server")
    (result,) = server.post(held.path, json.loads(held.bodies[0])).json()["results"]
    assert (result["step"], result["held"]) == (2, True)
    server.stop()


def test_the_baselines_answer_what_the_service_answers(tmp_path: Path, data_dir: Path) -> None:
    pool = single_texts(tmp_path, data_dir)
    with (
        baton(COMMITTED, tmp_path) as service,
        baseline("plain", tmp_path, model=newest("sentiment")) as plain,
    ):
        compare_answers(service, plain, pool)
        for path, call in calls_of_each_kind():
            assert ask(service, path, call)["summary"]["failed"] == 0
    body = {"model": "m", "items": [{"state": "token", "inputs": [[1.0, 2.5]]}]}
    with baseline("echo", tmp_path, workers=2) as echo:
        assert httpx.post(f"{echo.url}/v1/step", json=body).json() == body
        members = family(echo.pid)
        assert len(members) > echo.workers
        assert pss_mb(echo.pid) > sum(map(alone_mb, members)) > 10


def alone_mb(pid: int) -> float:
    """Return the memory that is a process's own, which its children do not share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [int(line.split()[1]) for line in rollup if line.startswith("Private_")]
    return sum(private) * 1024 / 1e6


def test_the_reader_is_served_in_float32_and_in_int8_with_nearly_the_same_scores(tmp_path: Path) -> None:
    twin = f"{TEXT_MODEL}-int8"
    write_reader(tmp_path / "models" / TEXT_MODEL / "1")
    write_reader(tmp_path / "models" / twin / "1", to_int8)
    with baton(tmp_path / "models", tmp_path) as service:
        polarity = {}
        for name in (TEXT_MODEL, twin):
            pool = drawn_texts(tmp_path, MIXED, name)
            results = [ask(service, pool.path, body)["results"][0] for body in pool.bodies[:8]]
            assert [result["tokens"] for result in results] == [len(text.split()) for text in pool.content[:8]]
            assert not any(result["unknown_ratio"] for result in results)
            polarity[name] = np.array([result["polarity"] for result in results])
    assert 0 < np.abs(polarity[TEXT_MODEL] - polarity[twin]).max() < 0.1
    assert np.ptp(polarity[TEXT_MODEL]) > 0.1


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no"), baton(tmp_path, tmp_path):
        pass


def test_a_different_answer_is_not_taken_for_a_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"label": "good", "score": 0.9}, {"label": "good", "score": 0.8}])
    monkeypatch.setattr("loadtests.workbench.ask", lambda *_: {"results": [next(answers)]})
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "test.tsv").write_text("label\tcontent\n1\ta good film\n")
    server = Running("http://nowhere", 0, 0.0, 1)
    with pytest.raises(BenchError, match=r"0\.8"):
        compare_answers(server, server, single_texts(tmp_path, tmp_path))


def test_the_in_process_limit_sorts_by_length_and_says_what_it_padded(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtests.floors.BATCHES", (64,))
    monkeypatch.setattr("loadtests.floors.TRIAL_S", 0.0)
    limit = sentiment_limit(newest("sentiment"), single_texts(tmp_path, data_dir).content)
    limit.advance()
    assert limit.facts()["batch"] == 64
    assert 1.0 < limit.facts()["padding"] < 1.15


def test_the_floor_s_tokens_carry_a_state_there_and_back() -> None:
    state = np.arange(1024, dtype=np.float32).tobytes()
    tokens = Tokens()
    assert tokens.open(tokens.seal(state)) == state
