"""`baton score --ray`: the rows and parts of a job without Ray, whatever dies meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LOG_LIMIT_S, ROOT, TOKEN_KEYS, Server

from loadtests.ray_cluster import ENVIRONMENT, Cluster, ray_cluster

END_LIMIT_S = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(2) as running:
        yield running


def start(model: str, *options: object, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "service", "score", model, *map(str, options)]
    own = os.environ | ENVIRONMENT | environment
    return subprocess.Popen(command, cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True)


def end(running: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        _, told = running.communicate(timeout=END_LIMIT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        raise
    return running.returncode, told


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("part-*")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have commands score with the tiny models."""
    monkeypatch.setenv("BATON_MODELS_DIR", str(tiny_models))
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    return tiny_models


TEXTS = pa.table({"id": range(60), "text": ["good film", None, "a bad one", "", "not good", "it was good"] * 10})
SERIES = pa.table({"name": np.repeat(range(12), 5), "x0": np.random.default_rng(2).normal(size=60)})
OF_TEXTS, OF_SERIES = ("--column", "text"), ("--id", "name", "--value", "x0", "--horizon", 2)


@pytest.mark.parametrize(
    ("directory", "model", "rows", "options", "failed"),
    [
        ("tiny_models", "sentiment", TEXTS, OF_TEXTS, 40),
        pytest.param(
            *("sequence_models", "tagger", TEXTS, (*OF_TEXTS, "--scores"), 40), marks=pytest.mark.cluster, id="tagger"
        ),
        pytest.param(
            *("conditioned_models", "translate", TEXTS, OF_TEXTS, 40), marks=pytest.mark.cluster, id="translate"
        ),
        pytest.param(*("tiny_models", "forecast", SERIES, OF_SERIES, 0), marks=pytest.mark.cluster, id="forecast"),
    ],
)
def test_rows_and_parts_are_those_of_a_job_without_ray(
    directory: str,
    model: str,
    rows: pa.Table,
    options: tuple[object, ...],
    failed: int,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("BATON_MODELS_DIR", str(request.getfixturevalue(directory)))
    monkeypatch.setenv("BATON_STATE_DIR", str(tmp_path / "state"))
    files = []
    for number in range(2):
        series = [f"{number}-{name}" for name in rows.column(0).to_pylist()]
        files += ["-i", tmp_path / f"{number}.parquet"]
        pq.write_table(rows.set_column(0, rows.schema.names[0], [series]), files[-1])
    here, there = (
        end(start(model, *files, "-o", tmp_path / name, *options, "--part-rows", 25, *more))
        for name, more in (("here", []), ("there", ["--ray", cluster.address]))
    )
    assert here[0] == there[0] == (1 if failed else 0), there[1]
    for told in here[1], there[1]:
        assert ("failed; the column error has the reasons" in told) == bool(failed)
        assert not failed or f"{failed} failed" in told
    assert [file.name for file in sorted((tmp_path / "here").iterdir())] == [
        file.name for file in sorted((tmp_path / "there").iterdir())
    ]
    for one, other in zip(rows_of(tmp_path / "here"), rows_of(tmp_path / "there"), strict=True):
        assert _close(one, other)


def _close(one: Any, other: Any) -> bool:
    """Whether two cells are the same up to the rounding of runs with other rows beside theirs."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return bool(one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other))


@pytest.mark.usefixtures("models")
def test_a_killed_actor_costs_no_row_and_a_killed_job_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    file, output = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(pa.table({"id": range(40_000), "text": ["it was good, not bad, a film"] * 40_000}), file)
    options = ["-i", file, "-o", output, "--column", "text", "--part-rows", 200, "--ray", cluster.address, "--resume"]
    running = start("sentiment", *options)
    _wait_for_parts(output, 3, running)
    cluster.wait_for("MapWorker")[0].kill()
    _wait_for_parts(output, len(list(output.glob("part-*"))) + 3, running)
    running.kill()
    end(running)
    cluster.wait_until_gone("MapWorker")
    done = {file.name for file in output.glob("part-*")}
    assert 6 <= len(done) < 200
    running = start("sentiment", *options)
    _wait_for_parts(output, len(done) + 3, running)
    for actor in cluster.wait_for("MapWorker"):
        actor.kill()
    status, told = end(running)
    assert status == 0, told
    assert "were there" in told
    assert [row["id"] for row in rows_of(output)] == list(range(40_000))


@pytest.mark.cluster
@pytest.mark.usefixtures("models")
def test_a_killed_node_costs_no_row(cluster: Cluster, tmp_path: Path) -> None:
    """Chunks that it read and had not handed on are read again."""
    output = tmp_path / "out"
    for name in range(4):
        rows = pa.table({"id": range(10_000), "text": ["it was good, not bad, a film"] * 10_000})
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    options = ["-i", tmp_path / "*.parquet", "-o", output, "--column", "text", "--part-rows", 200]
    with cluster.joined(2) as node:
        running = start("sentiment", *options, "--ray", cluster.address)
        node.wait_for("MapWorker")
        _wait_for_parts(output, len(list(output.glob("part-*"))) + 10, running)
        node.end()
        status, told = end(running)
    assert status == 0, told
    assert [row["id"] for row in rows_of(output)] == [*range(10_000)] * 4


@pytest.mark.cluster
@pytest.mark.usefixtures("models")
def test_chunks_that_kill_every_actor_end_the_job_and_what_is_written_stays(cluster: Cluster, tmp_path: Path) -> None:
    file, output = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(pa.table({"id": range(40_000), "text": ["it was good, not bad, a film"] * 40_000}), file)
    options = ["-i", file, "-o", output, "--column", "text", "--part-rows", 200, "--ray", cluster.address]
    running = start("sentiment", *options, "--processes", 1)
    _wait_for_parts(output, 3, running)
    deadline = time.monotonic() + END_LIMIT_S
    while running.poll() is None:
        assert time.monotonic() < deadline
        for actor in cluster.processes("MapWorker"):
            actor.kill()
        time.sleep(0.05)
    status, told = end(running)
    assert (status, "what is written stays, and --resume goes on" in told) == (1, True), told
    status, told = end(start("sentiment", *options, "--resume"))
    assert (status, "were there" in told) == (0, True), told
    assert [row["id"] for row in rows_of(output)] == list(range(40_000))


def _wait_for_parts(output: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LOG_LIMIT_S
    while len(list(output.glob("part-*"))) < count:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)


@pytest.mark.cluster
@pytest.mark.usefixtures("models")
def test_sessions_that_were_warmed_up_go_on_at_a_service(
    cluster: Cluster, tmp_path: Path, models: Path, start_server: Any
) -> None:
    file, output = tmp_path / "rows.parquet", tmp_path / "out"
    table = pa.table({"name": ["a"] * 3 + ["b"] * 5, "x": [0.1, 0.2, 0.3, 0.5, 0.4, 0.3, 0.2, 0.1]})
    pq.write_table(table, file)
    options = ["-i", file, "-o", output, "--id", "name", "--value", "x", "--states", "--ray", cluster.address]
    status, told = end(start("numbers", *options))
    assert (status, "--states on Ray needs BATON_TOKEN_KEYS" in told) == (1, True)
    status, told = end(start("numbers", *options, BATON_TOKEN_KEYS=TOKEN_KEYS))
    assert status == 0, told
    server: Server = start_server(models, tmp_path / "server", BATON_TOKEN_KEYS=TOKEN_KEYS)
    for row, values in zip(rows_of(output), (table["x"][:3], table["x"][3:]), strict=True):
        on = server.post("/v1/step", {"model": "numbers", "items": [{"values": [0.7], "state": row["state"]}]}).json()
        whole = server.post("/v1/step", {"model": "numbers", "items": [{"values": [*values.to_pylist(), 0.7]}]}).json()
        (one,), (other,) = on["results"], whole["results"]
        assert one["outputs"]["total"] == pytest.approx(other["outputs"]["total"])
        assert one["step"] == other["step"] == len(values) + 1


@pytest.mark.cluster
@pytest.mark.usefixtures("models")
def test_what_cannot_be_is_told(cluster: Cluster, tmp_path: Path) -> None:
    for number, names in enumerate((["a", "b"], ["c", "a"])):
        pq.write_table(pa.table({"name": names, "x0": [1.0, 2.0]}), tmp_path / f"{number}.parquet")
    series = ["--id", "name", "--value", "x0", "--horizon", "2"]
    options = ["-i", tmp_path / "*.parquet", "-o", tmp_path / "out", *series, "--ray"]
    status, told = end(start("forecast", *options, cluster.address))
    assert (status, "rows of name 'a' stand apart; sort the input by name first" in told) == (1, True)
    strict = ["-i", tmp_path / "0.parquet", "-o", tmp_path / "strict", "--strict"]
    status, told = end(start("forecast", *strict, *options[4:], cluster.address))
    assert (status, "name a: history_too_short" in told) == (1, True)
    options[3] = tmp_path / "none"
    status, told = end(start("forecast", *options, "127.0.0.1:1"))
    assert (status, "no Ray cluster answers at 127.0.0.1:1" in told) == (1, True)
