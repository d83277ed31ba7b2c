"""A worker that takes another's place serves what the others do, whatever else has come to the models directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import httpx
import pytest
import tiny
from conftest import ADMIN, Server, ServerFactory
from each_worker import each_worker

from service.engine.served import Record, Served

ROW = [[0.5, -0.5]]
ADMIN_HEADER = ADMIN.header()


def begin(client: httpx.Client) -> str:
    """Begin a session at the worker behind `client`, and return its version."""
    answer = client.post("/v1/step", json={"model": "stepper", "items": [{"inputs": ROW}]}).raise_for_status()
    return answer.json()["results"][0]["version"]


def begun(server: Server) -> list[str]:
    """Return the versions that sessions begin with, at each of two workers."""
    with each_worker(server, 2) as clients:
        return [begin(client) for client in clients.values()]


def replace_a_worker(server: Server) -> list[str]:
    """Kill a worker, and return what was logged until another has taken its place."""
    with each_worker(server, 2) as clients:
        victim = next(iter(clients))
    start = server.mark()
    os.kill(victim, signal.SIGKILL)
    return server.lines_since(start, until="Application startup complete")


def reload(server: Server, until: str = "models reloaded") -> None:
    """Have both workers look at the models directory."""
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    for _ in range(2):
        start += len(server.lines_since(start, until=until))


def choose(models: Path, version: str) -> None:
    (models / "stepper" / "serve.json").write_text(json.dumps({"version": version}))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    tiny.stepper(tmp_path / "models", seed=1)
    return tmp_path / "models"


def test_a_version_that_nobody_was_told_of_is_not_begun_with_by_a_new_worker_alone(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    second = tiny.stepper(models, seed=2, version="2")
    logged = replace_a_worker(server)
    assert any(f"passed over: {second} is not what is served" in line for line in logged)
    assert begun(server) == ["1", "1"]
    choose(models, "1")
    reload(server)
    assert begun(server) == ["1", "1"]
    (models / "stepper" / "serve.json").unlink()
    replace_a_worker(server)
    assert begun(server) == ["1", "1"]
    reload(server)
    assert begun(server) == ["2", "2"]
    choose(models, "1")
    replace_a_worker(server)
    assert begun(server) == ["2", "2"]
    server.stop()
    assert server.process.returncode == 0


def test_what_came_after_a_version_was_retired_is_left_alone_too(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny.stepper(models, seed=2, version="2")
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    shutil.rmtree(models / "stepper" / "1")
    reload(server)
    tiny.stepper(models, seed=3, version="3")
    replace_a_worker(server)
    assert begun(server) == ["2", "2"]
    server.stop()


def test_a_version_that_was_refused_does_not_end_the_service_when_a_worker_dies(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    (tiny.stepper(models, seed=2, version="2") / "model.onnx").unlink()
    choose(models, "7")
    reload(server, until="not reloaded")
    replace_a_worker(server)
    assert begun(server) == ["1", "1"]
    server.stop()
    assert server.process.returncode == 0


def test_a_reload_that_a_worker_died_over_is_made_by_its_successor(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    with each_worker(server, 2) as clients:
        victim = next(iter(clients))
    tiny.stepper(models, seed=2, version="2")
    start = server.mark()
    os.kill(victim, signal.SIGSTOP)  # so that it can answer nothing before it dies
    server.process.send_signal(signal.SIGHUP)
    server.lines_since(start, until="models reloaded")
    os.kill(victim, signal.SIGKILL)
    server.lines_since(start, until="Application startup complete")
    assert begun(server) == ["2", "2"]
    server.stop()


def unloaded_with_a_session(server: Server) -> str:
    """Begin a session, unload its model, and return its token."""
    answer = server.post("/v1/step", {"model": "stepper", "items": [{"inputs": ROW}]})
    order = server.client.post("/v2/repository/models/stepper/unload", headers=ADMIN_HEADER)
    assert order.status_code == 200
    return answer.json()["results"][0]["state"]


def test_a_session_of_a_model_that_was_unloaded_goes_on_at_a_new_worker_too(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny.sentiment(models)
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2", BATON_API_KEYS=ADMIN.setting)
    token = unloaded_with_a_session(server)
    (before,) = (line for line in server.client.get("/v1/models").json()["models"] if line["name"] == "stepper")
    replace_a_worker(server)
    with each_worker(server, 2) as clients:
        for client in clients.values():
            step = client.post("/v1/step", json={"model": "stepper", "items": [{"inputs": ROW, "state": token}]})
            assert step.json()["results"][0]["step"] == 2
            (line,) = (line for line in client.get("/v1/models").json()["models"] if line["name"] == "stepper")
            assert line["retiring"] == before["retiring"] != {}
    server.stop()


def test_a_worker_that_cannot_take_another_s_place_is_tried_again_while_others_serve(
    models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """What is served is gone for a while: nothing else is begun with, and nobody who serves ends."""
    tiny.stepper(models, seed=2, version="2")
    choose(models, "1")
    server = start_server(models, tmp_path / "state", BATON_WORKERS="2")
    with each_worker(server, 2) as clients:
        victim, survivor = clients
        away = (models / "stepper" / "1").rename(tmp_path / "away")
        start = server.mark()
        os.kill(victim, signal.SIGKILL)
        line = server.lines_since(start, until="is tried again")[-1]
        assert f"{models}/stepper/1: models_dir: is served, and gone" in line
        assert begin(clients[survivor]) == "1"
    away.rename(models / "stepper" / "1")
    server.lines_since(start, until="Application startup complete")
    assert begun(server) == ["1", "1"]
    server.stop()
    assert server.process.returncode == 0


@pytest.fixture
def record() -> Iterator[tuple[Served, int]]:
    """A record, and the file that it is in."""
    file = os.memfd_create("record")
    yield Served(file), file
    os.close(file)


def test_a_record_is_read_as_it_was_written_last(record: tuple[Served, int]) -> None:
    served, _ = record
    assert served.read() == Record()
    served.ask()
    for versions in ({"a": {"1": None, "2": 1000}}, {"b": {"1": None}}):
        served.take_up(versions, {"a": "1"}, [])
        assert served.read() == Record(versions, {"a": "1"}, asked=1, answered=0)
    served.answer(1)
    served.answer(0)
    assert served.read().answered == 1


def test_a_record_is_whole_for_whoever_reads_it_while_others_write(record: tuple[Served, int]) -> None:
    served, file = record
    records: list[dict[str, dict[str, int | None]]] = [{"a": {"1": None}}, {"b" * 500: {"1": None}}]
    served.take_up(records[0], {}, [])

    def write(versions: dict[str, dict[str, int | None]]) -> None:
        for _ in range(200):
            Served(file).take_up(versions, {}, [])

    writers = [ForkProcess(target=write, args=(versions,)) for versions in records]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert served.read().versions in records
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0


def test_a_record_whose_writer_was_killed_says_nothing(
    record: tuple[Served, int], caplog: pytest.LogCaptureFixture
) -> None:
    served, file = record
    served.take_up({"a": {"1": None}}, {}, [])
    os.ftruncate(file, 9)
    assert served.read() == Record()
    assert "was not written to its end" in caplog.text
