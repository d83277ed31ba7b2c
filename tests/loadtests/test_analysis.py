"""How `perf_analyzer` is run and read, with a program that takes its place, and what is shown of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import ServerFactory

from loadtests.models import PLAIN_MODEL, write_plain_reader
from loadtests.payloads import drawn_ids
from loadtests.peers.analysis import page
from loadtests.peers.analyzer import Analysis, analyze, prepare_analyzer, write_ids
from loadtests.peers.environments import PeerError, requirements
from loadtests.requirements import BenchError
from loadtests.serving import Running
from loadtests.workbench import check_scores

SERVER = Running("http://127.0.0.1:9", pid=0, ready_s=0)
REPORT = """Concurrency,Inferences/Second,p50 latency,p90 latency,p95 latency,p99 latency
8,1374.25,212900,300000,310000,760000
"""


def stand_in(folder: Path, script: str) -> list[str]:
    """Return the command of a program that keeps its arguments in `arguments`."""
    program = folder / "perf_analyzer"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\n{script}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return [str(program)]


def test_what_it_reports_is_read(tmp_path: Path) -> None:
    script = f"cat > {tmp_path}/perf_analyzer.csv <<'END'\n{REPORT}END\necho '    Request count: 327'"
    command = stand_in(tmp_path, script)
    found = analyze(command, SERVER, "lstm", ["--shape", "x:1"], concurrency=8, seconds=60, folder=tmp_path)
    assert found == Analysis(requests=327, inferences_per_s=1374.25, p50_ms=212.9, p99_ms=760.0)
    given = (tmp_path / "arguments").read_text().split("\n")
    for option, value in {"-m": "lstm", "-u": "127.0.0.1:9", "-p": "20000", "-r": "3", "--shape": "x:1"}.items():
        assert given[given.index(option) + 1] == value


def test_a_request_that_failed_ends_it_with_what_it_says(tmp_path: Path) -> None:
    command = stand_in(tmp_path, "echo 'Thread [0] had error: no way' >&2; exit 99")
    with pytest.raises(PeerError, match="had error: no way"):
        analyze(command, SERVER, "lstm", [], concurrency=8, seconds=60, folder=tmp_path)


@pytest.mark.parametrize("older", [False, True])
def test_it_runs_with_the_libraries_beside_it_where_there_are_any(tmp_path: Path, older: bool) -> None:
    folder = tmp_path / "perf_analyzer"
    libraries = folder / "debian" / "usr" / "lib" / "x86_64-linux-gnu"
    (libraries if older else folder).mkdir(parents=True)
    (folder / "installed.txt").write_text(requirements("perf_analyzer").read_text())
    program = str(folder / "perf_analyzer" / "bin" / "perf_analyzer")
    own = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)] if older else []
    assert prepare_analyzer(tmp_path) == [*own, program]


def test_rows_of_ids_are_written_as_it_reads_them(tmp_path: Path) -> None:
    write_ids(tmp_path / "ids.json", [[1, 2], [3, 4]])
    rows = json.loads((tmp_path / "ids.json").read_text())["data"]
    assert rows == [{"ids": {"content": row, "shape": [2]}} for row in ([1, 2], [3, 4])]


def test_the_table_has_what_stands_beside_it() -> None:
    seen = {"requests": 1327, "inferences_per_s": 1374.2, "p50_ms": 212.9, "p99_ms": 760.0}
    raw = {"what": "batches", **seen, "errors": 0, "beside": {"client": "wrk", **seen, "inferences_per_s": 1500.0}}
    facts = {"date": "2026-01-02", "commit_date": "2026-01-01", "version": "2", "timing": {"seconds": 60.0}}
    shown = page({**facts, "analyses": [raw]})
    assert "| batches | 1,374 | 212.9 ms | 760.0 ms | 1,327 | 0 | wrk | 1,500 | 212.9 ms | 760.0 ms |" in shown
    assert "perf-analyzer 2, 60 s each" in shown


def test_bodies_of_ids_are_those_rows_and_are_answered_as_the_graph_does(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    pool = drawn_ids(tmp_path, PLAIN_MODEL)
    assert pool.file.read_bytes() == b"".join(pool.bodies)
    assert {len(body) for body in pool.bodies} == {len(pool.bodies[0])}
    first = np.frombuffer(pool.bodies[0][pool.head_bytes :], "<i4").reshape(pool.items, -1)
    np.testing.assert_array_equal(first, pool.content[: pool.items])
    write_plain_reader(tmp_path / "models" / PLAIN_MODEL / "1")
    server = start_server(tmp_path / "models", tmp_path / "state")
    running = Running(server.url, server.process.pid, 0)
    check_scores(running, pool, tmp_path / "models" / PLAIN_MODEL / "1")
    pool.content[0], pool.content[1] = pool.content[1], pool.content[0]
    with pytest.raises(BenchError, match="does not answer what the graph gives"):
        check_scores(running, pool, tmp_path / "models" / PLAIN_MODEL / "1")
