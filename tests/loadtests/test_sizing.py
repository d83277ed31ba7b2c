"""The table of docs/operations.md, and what it is measured with; nothing here is timed, and nothing needs wrk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from conftest import Server, ServerFactory

from loadtests import sizing
from loadtests.models import COMMITTED
from loadtests.requirements import BenchError
from loadtests.serving import Running
from loadtests.sizing import PAGE, RESULTS, held_in_full_store, table, under_way
from service.cli.typical_calls import Call, call_for

STORE_BYTES = 4 * 2**20


def running(server: Server) -> Running:
    return Running(server.url, server.process.pid, 0.0)


def call_of(server: Server, model: str) -> Call:
    return call_for(server.client.get(f"/v1/models/{model}").json())


def test_the_page_has_the_table_of_the_results() -> None:
    result = json.loads(RESULTS.read_text())
    assert result["models"].keys() == {model.name for model in COMMITTED.iterdir()}
    assert f"<!-- sizing:begin -->\n\n{table(result)}\n\n<!-- sizing:end -->" in PAGE.read_text()


def test_the_figures_of_a_busy_machine_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.loads(RESULTS.read_text())
    loads = [load for raw in result["models"].values() for some in raw["workers"].values() for load in some["loads"]]
    for load in loads:
        load |= {"requests_per_s": 1000.0, "cores": load["cores"] | {"other": 0.1}}
    results, page = tmp_path / "sizing.json", tmp_path / "operations.md"
    page.write_text(PAGE.read_text())
    monkeypatch.setattr(sizing, "RESULTS", results)
    monkeypatch.setattr(sizing, "PAGE", page)
    loads[-1]["requests_per_s"] = 600.0
    with pytest.raises(BenchError, match=r"2: 600 to 1,000 calls/s; at most 1\.5 times"):
        sizing.publish(result)
    loads[-1]["requests_per_s"] = 1000.0
    for load in loads[:2]:  # of three rounds
        load["cores"]["other"] = 0.3
    with pytest.raises(BenchError, match=r"1: other processes took 0\.30 cores; at most 0\.2"):
        sizing.publish(result)
    assert not results.exists()
    loads[0]["cores"]["other"] = 0.1
    sizing.publish(result)
    assert json.loads(results.read_text()) == result
    assert table(result) in page.read_text()


@pytest.mark.parametrize("model", ["sentiment", "forecast", "stepper", "reader"])
def test_bodies_are_those_of_connections_under_way(server: Server, model: str, tmp_path: Path) -> None:
    pool = under_way(running(server), call_of(server, model), tmp_path)
    items = [json.loads(line) for line in pool.file.read_text().splitlines()]
    assert items == [json.loads(body) for body in pool.bodies]
    if model in ("stepper", "reader"):
        tokens = {item["items"][0]["state"] for item in items}
        assert len(tokens) == len(items)
    for body in items[:3]:
        assert server.post(pool.path, body).json()["summary"] == {"ok": 1, "failed": 0}


def test_a_full_store_keeps_the_sessions_that_are_counted(tmp_path: Path, start_server: ServerFactory) -> None:
    tiny.stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_STORE_BYTES=str(STORE_BYTES))
    held = held_in_full_store(running(server), call_of(server, "stepper"))
    assert held == server.metric("baton_held_states")
    assert server.metric("baton_held_bytes") > STORE_BYTES / 2
    assert server.metric("baton_evictions_total", "reason", "space") > 0
    server.stop()
