"""Several workers on one port: shared keys and metrics, deaths, the end, and starts that fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import tiny
from conftest import LOG_LIMIT_S, ROOT, Server, ServerFactory
from each_worker import each_worker, pid_behind
from prometheus_client.parser import text_string_to_metric_families
from streams import Stream

from service.workers.cores import allowed_cores

ByPid = Callable[[Server], dict[int, httpx.Client]]

WORKERS = 2
RESIDENT = "baton_resident_bytes"
SLOW_BODY = b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
def clients_by_pid() -> Iterator[ByPid]:
    """Connect one client to each worker of a server; returned by the worker's process id."""
    with ExitStack() as kept:
        yield lambda server: kept.enter_context(each_worker(server, WORKERS))


def serve(*, state_dir: object, **options: object) -> subprocess.CompletedProcess[str]:
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    return subprocess.run(
        [sys.executable, "-m", "service", "serve", *arguments],
        env={**inherited, "BATON_STATE_DIR": str(state_dir), "BATON_MODELS_DIR": "/overridden"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def step(client: httpx.Client, state: str | None = None, values: tuple[int, ...] = (0, 0)) -> dict:
    item = {"values": values, **({"state": state} if state else {})}
    (result,) = client.post("/v1/step", json={"model": "numbers", "items": [item]}).json()["results"]
    return result


def metrics(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(client: httpx.Client, name: str, **labels: str) -> float:
    return metrics(client)[name, frozenset(labels.items())]


def until_logged(server: Server, text: str, times: int, start: int = 0) -> None:
    for _ in range(times):
        start += len(server.lines_since(start, until=text))


@pytest.fixture
def pair(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> Iterator[Server]:
    server = start_server(tiny_models, tmp_path / "state", BATON_WORKERS=str(WORKERS))
    yield server
    server.stop()
    assert server.process.returncode == 0


def test_a_session_goes_on_at_another_worker_and_the_key_is_made_once(pair: Server, clients_by_pid: ByPid) -> None:
    clients = clients_by_pid(pair)
    assert pair.process.pid not in clients
    state = None
    for client in list(clients.values()) * 5:
        result = step(client, state, values=(1, 1))
        state = result["state"]
    assert (result["step"], result["outputs"]["total"]) == (20, [2.0**20 - 1])
    assert len([line for line in pair.lines if "no token key is configured" in line]) == 1


def test_metrics_are_the_sum_of_all_workers_whichever_answers_and_outlive_a_worker(
    pair: Server, clients_by_pid: ByPid
) -> None:
    clients, sent, state = clients_by_pid(pair), 0, None
    start = len(pair.lines)
    for client in clients.values():
        for _ in range(100):
            state, sent = step(client, state)["state"], sent + 1
    until_logged(pair, "/v1/step", sent, start)
    assert_counted(list(clients.values()), sent)

    start, (victim, survivor) = len(pair.lines), list(clients)
    os.kill(victim, signal.SIGKILL)
    pair.lines_since(start, until=f"worker {victim} died")
    for _ in range(10):
        state, sent = step(clients[survivor], state)["state"], sent + 1
    pair.lines_since(start, until="Application startup complete")
    clients[survivor].close()
    replaced = clients_by_pid(pair)
    assert survivor in replaced
    assert value(replaced[survivor], "baton_worker_deaths_total") == 1
    assert victim not in replaced
    for client in replaced.values():
        state, sent = step(client, state)["state"], sent + 1
    until_logged(pair, "/v1/step", sent - 200, start)
    assert_counted([*replaced.values()], sent)


def assert_counted(clients: list[httpx.Client], sent: int) -> None:
    model = {"model": "numbers", "version": "1"}
    expected: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
        (name, frozenset(labels.items())): number
        for name, labels, number in (
            ("baton_requests_total", {"endpoint": "/v1/step", "status": "200"}, sent),
            ("baton_request_seconds_count", {"endpoint": "/v1/step"}, sent),
            ("baton_request_seconds_bucket", {"endpoint": "/v1/step", "le": "+Inf"}, sent),
            ("baton_steps_total", model, 2 * sent),
            ("baton_batch_rows_count", model, sent),
            ("baton_batch_rows_sum", model, sent),
            ("baton_run_seconds_count", model, sent),
            ("baton_tokens_issued_total", {"model": "numbers"}, sent),
            ("baton_tokens_opened_total", {"model": "numbers"}, sent - 1),
            ("baton_session_steps_count", {}, sent),
            ("baton_queue_rows", model, 0),
            ("baton_model_info", {**model, "task": "step"}, 1),
            ("baton_run_threads", model, WORKERS),
            ("baton_limit", {"name": "max_items"}, 1024),
        )
    }
    for client in clients * 3:
        shown = metrics(client)
        assert {key: shown.get(key) for key in expected} == expected
        memory = {dict(labels)["worker"]: size for (name, labels), size in shown.items() if name == RESIDENT}
        assert set(memory) == {*map(str, range(WORKERS)), "supervisor"}
        assert all(size > 2**20 for size in memory.values())
        assert shown["baton_cores", frozenset()] == allowed_cores()
        assert not any(label == "pid" for _, labels in shown for label, _ in labels)


def test_rows_that_waited_in_a_worker_that_died_are_no_longer_shown(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, clients_by_pid: ByPid
) -> None:
    """One row per run and a thousand long rows: the worker dies in the middle of them."""
    server = start_server(
        tiny_models, tmp_path, BATON_WORKERS="2", BATON_BATCH_CELLS="1", BATON_MAX_BODY_BYTES="16777216"
    )
    clients = clients_by_pid(server)
    (victim, busy), (_, other) = clients.items()
    lost: list[Exception] = []

    def ask() -> None:
        try:
            busy.post("/v1/step", json={"model": "numbers", "items": [{"values": [0] * 4096}] * 1000})
        except httpx.TransportError as failure:
            lost.append(failure)

    asking = threading.Thread(target=ask)
    asking.start()
    while not value(other, "baton_queue_rows", model="numbers", version="1"):
        assert asking.is_alive()
    start = len(server.lines)
    os.kill(victim, signal.SIGKILL)
    asking.join(LOG_LIMIT_S)
    assert len(lost) == 1
    server.lines_since(start, until="Application startup complete")
    assert value(other, "baton_queue_rows", model="numbers", version="1") == 0
    assert step(other)["step"] == 2
    server.stop()


def test_few_long_connections_and_streams_are_spread_evenly(pair: Server) -> None:
    with ExitStack() as kept:
        clients = [kept.enter_context(httpx.Client(base_url=pair.url, timeout=30)) for _ in range(6)]
        assert sorted(Counter(pid_behind(pair, client) for client in clients).values()) == [3, 3]
        for _ in range(4):
            kept.enter_context(Stream(pair, "numbers"))
    start = 0
    by_worker: Counter[str] = Counter()
    for _ in range(4):
        lines = pair.lines_since(start, until="WS /v1/stream")
        start += len(lines)
        by_worker[lines[-1].split()[3]] += 1
    assert sorted(by_worker.values()) == [2, 2]


def test_sigterm_answers_what_is_under_way_at_every_worker_and_closes_the_port(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2")
    address, body = httpx.URL(server.url), b'{"inputs": ["a good film"]}'
    start, open_requests = len(server.lines), {}
    for number in range(40):
        client = socket.create_connection((address.host, address.port), timeout=30)
        head = f"expect: 100-continue\r\nx-request-id: slow-{number}\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(SLOW_BODY + head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        open_requests[f"slow-{number}"] = client
    server.process.send_signal(signal.SIGTERM)
    until_logged(server, "Shutting down", WORKERS, start)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=30)
    for client in open_requests.values():
        client.sendall(body)
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200")
        client.close()
    assert server.process.wait(timeout=30) == 0
    server.stop()
    pids = {line.split()[3] for line in server.lines if "id=slow-" in line}
    assert len(pids) == WORKERS
    assert len([line for line in server.lines if line.endswith("baton.app drained")]) == WORKERS


def test_workers_end_with_a_supervisor_that_was_killed(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2", TMPDIR=str(tmp_path))
    address = httpx.URL(server.url)
    server.kill()
    until_logged(server, "baton.app drained", WORKERS)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=30)


def test_a_worker_that_hangs_is_replaced_and_the_others_are_not(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, clients_by_pid: ByPid
) -> None:
    """With the supervisor's second made shorter, so that nobody waits for thirty of them."""
    faster = "from service.workers import port, supervisor; port.BEAT_S, supervisor.LOOK_S = 0.01, 0.1"
    command = (sys.executable, "-c", f"{faster}; from service.cli.command import main; main()")
    server = start_server(tiny_models, tmp_path, command=command, BATON_WORKERS="2")
    victim, survivor = clients_by_pid(server)
    start = len(server.lines)
    os.kill(victim, signal.SIGSTOP)
    logged = server.lines_since(start, until=f"worker {victim} died")
    assert any(f"worker {victim} has not turned" in line for line in logged)
    assert not any(f"worker {survivor}" in line for line in server.lines)
    server.lines_since(start, until="Application startup complete")
    assert survivor in clients_by_pid(server)
    server.stop()


def test_the_temporary_directory_is_empty_after_the_end(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    server = start_server(tiny_models, tmp_path / "state", BATON_WORKERS="2", TMPDIR=str(scratch))
    assert len(list(scratch.iterdir())) == 1
    server.stop()
    assert list(scratch.iterdir()) == []


def test_threads_of_a_run_are_shared_out_among_workers(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, clients_by_pid: ByPid
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_WORKERS="2", BATON_INTRA_OP_THREADS="16")
    sessions = len(server.client.get("/v1/models").json()["models"])
    for pid in clients_by_pid(server):
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        assert sessions * (16 // WORKERS - 1) <= threads < sessions * (16 - 1)
    server.stop()


def test_a_port_where_another_service_listens_is_refused(pair: Server, tiny_models: Path, tmp_path: Path) -> None:
    port = httpx.URL(pair.url).port
    for workers in (1, WORKERS):
        ended = serve(port=port, models_dir=tiny_models, workers=workers, state_dir=tmp_path)
        assert ended.returncode == 1
        told = ended.stderr.splitlines()[-1]
        assert told.startswith(f"baton: cannot listen on BATON_HOST 127.0.0.1, BATON_PORT {port}")


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_the_address_of_all_is_that_of_ipv4_too(workers: int, tmp_path: Path, start_server: ServerFactory) -> None:
    tiny.number_stepper(tmp_path / "models")
    everywhere = {"BATON_HOST": "::", "BATON_OPEN_ACCESS": "true", "BATON_WORKERS": str(workers)}
    server = start_server(tmp_path / "models", tmp_path / "state", **everywhere)
    port = httpx.URL(server.url).port
    for host in ("127.0.0.1", "[::1]"):
        assert httpx.get(f"http://{host}:{port}/healthz").status_code == 200
    server.stop()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"models_dir": "/nowhere"}, "baton: /nowhere: models_dir: is no directory; BATON_MODELS_DIR must name one"),
        ({"device": "cuda"}, "baton: device 'cuda' needs CUDAExecutionProvider, but this ONNX Runtime has"),
        ({"workers": 65}, "baton: BATON_WORKERS: Input should be less than or equal to 64"),
        ({"state_dir": "/proc/nowhere"}, "baton: the token key cannot be kept in /proc/nowhere"),
    ],
)
def test_what_is_wrong_in_every_worker_ends_start_up_with_one_line(
    options: dict[str, object], says: str, tiny_models: Path, tmp_path: Path
) -> None:
    """The options override the environment, so the reasons show as well that workers see them."""
    ended = serve(**{"port": 0, "models_dir": tiny_models, "workers": WORKERS, "state_dir": tmp_path, **options})
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(says)
    assert ended.stderr.count(says.removeprefix("baton: ")) == 1
    assert "Traceback" not in ended.stderr


def test_workers_of_whom_none_can_be_replaced_end_the_service_with_the_reason(
    tmp_path: Path, start_server: ServerFactory, clients_by_pid: ByPid
) -> None:
    directory = tiny.stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_WORKERS="2")
    victims = list(clients_by_pid(server))
    (directory / "model.onnx").write_bytes(b"changed")
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert server.process.wait(timeout=30) == 1
    server.kill()
    assert server.lines[-1].startswith(f"baton: {directory}/manifest.json: sha256")
