"""A service without descriptors, without memory, and with clients that never read as it ends."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from conftest import Server, ServerFactory
from each_worker import each_worker
from held import KEPT, go_on, hold, outcome, sequence_step
from raw_streams import RawStream, masked
from streams import random_rows

WAITING = 8
HEALTH = b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
ANSWERS = 200  # more than all buffers hold
MEMORY_BYTES = 16 * 2**20
MAX_STEPS = 4096
FASTER = "from service.workers import port, supervisor; port.BEAT_S, supervisor.LOOK_S = 0.01, 0.2"
SHORTER = "from service.workers import worker; worker.DRAIN_SPARE_S = 1"


def altered(how: str) -> tuple[str, ...]:
    """Return the command of a service some of whose constants are others."""
    return sys.executable, "-c", f"{how}; from service.cli.command import main; main()"


@contextmanager
def few_descriptors(server: Server, more: int) -> Iterator[None]:
    """Let a service open so many files and connections more."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_without_descriptors_connections_wait_and_each_is_answered_in_the_end(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path)
    held, start = hold(server.client), server.mark()
    with few_descriptors(server, more=3), ExitStack() as kept:
        waiting = []
        for _ in range(WAITING):
            waiting.append(kept.enter_context(socket.create_connection(server.address, timeout=30)))
            waiting[-1].sendall(HEALTH)
        server.lines_since(start, until="cannot take a connection")
        assert outcome(go_on(server.client, held)) == KEPT
        assert sequence_step(server.client, "walk", start=True).status_code == 200
        server.process.send_signal(signal.SIGHUP)
        server.lines_since(start, until="not reloaded")
        for connection in waiting:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            connection.close()
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    server.lines_since(start, until="models reloaded")
    assert outcome(go_on(server.client, hold(server.client))) == KEPT
    server.stop()


@contextmanager
def killed_for_memory(pid: int) -> Iterator[None]:
    """Have the kernel kill a process for what is much more than it has, where a control group can be made."""
    own = re.findall(r"^\d+:memory:/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    group = Path("/sys/fs/cgroup/memory", *own, f"baton-{pid}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
    except OSError as failure:
        pytest.skip(f"no control group can be given a limit of memory here: {failure}")
    (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:  # the process is dead, or is to be: a group with members cannot go
        with suppress(OSError):
            (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def test_a_worker_that_is_out_of_memory_is_replaced_and_no_other_session_is_lost(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """The supervisor's seconds are made shorter."""
    server = start_server(tiny_models, tmp_path, altered(FASTER), BATON_WORKERS="2")
    held = hold(server.client)
    large = {"model": "numbers", "items": [{"values": [0] * MAX_STEPS}] * 100}
    with each_worker(server, 2) as clients:
        (victim, unlucky), (_, other) = clients.items()
        start = server.mark()
        with killed_for_memory(victim):
            assert outcome(go_on(unlucky, held)) == KEPT
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                unlucky.post("/v1/step", json=large)
            server.lines_since(start, until=f"worker {victim} died")
        assert outcome(go_on(other, held)) == KEPT
        server.lines_since(start, until="Application startup complete")
    with each_worker(server, 2) as clients:
        assert victim not in clients
        for client in clients.values():
            assert outcome(go_on(client, held)) == KEPT
            assert client.post("/v1/step", json=large).status_code == 200
    server.stop()


def test_sigterm_ends_a_service_in_bounded_time_though_clients_never_read(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """What it leaves them on top of its limits of time is made shorter."""
    server = start_server(tiny_models, tmp_path, altered(SHORTER), BATON_TIMEOUT_MS="500")
    with RawStream(server) as stream, socket.socket() as client:
        stream.fill(masked(random_rows(2, 200).tobytes()))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.address)
        client.sendall(DOCUMENT * ANSWERS)
        server.lines_since(0, until="GET /openapi.json 200")
        server.stop()
    assert any("timeout graceful shutdown exceeded" in line for line in server.lines)
