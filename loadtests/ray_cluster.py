"""A Ray cluster of its own on this machine for as long as a block lasts: a head, and nodes that join it.

It knows how Ray is started and which processes came of it, not what they do. The environment of a node's processes
names its folder. Invariant: whatever ends the block, and whatever else runs here, those processes end and no others.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.peers.processes import free_ports
from loadtests.requirements import BenchError

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "default"}
MARK = "NODE_FOLDER"
HEAD_PORTS = ("port", "ray-client-server-port", "dashboard-agent-listen-port")
NODE_PORTS = ("dashboard-agent-listen-port",)
START = "import ray; from ray.scripts.scripts import main; print(ray.util.get_node_ip_address()); main()"
TRIES, START_LIMIT_S, LOOK_LIMIT_S = 3, 300, 120  # a busy machine may take longer than Ray's own parts wait


@dataclass(frozen=True)
class Node:
    """A part of a cluster, whose files are in `folder`."""

    folder: Path

    def processes(self, name: str) -> list[psutil.Process]:
        """Return its processes that Ray calls by a name with `name` in it."""
        found = []
        for process in _marked(self.folder):
            with suppress(psutil.Error):
                if name in "".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for(self, name: str) -> list[psutil.Process]:
        """Return such processes as soon as there are any. Raises: TimeoutError."""
        return self._wait(name, there=True)

    def wait_until_gone(self, name: str) -> None:
        """Return when there is no such process any more. Raises: TimeoutError."""
        self._wait(name, there=False)

    def _wait(self, name: str, *, there: bool) -> list[psutil.Process]:
        deadline = time.monotonic() + LOOK_LIMIT_S
        while bool(found := self.processes(name)) != there:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: {found}")
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """End all its processes, as a machine ends that loses its power."""
        while running := _marked(self.folder):  # what was killed may just have started another
            for process in running:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(running, timeout=1)


@dataclass(frozen=True)
class Cluster(Node):
    """The head of a cluster that listens at `address`."""

    address: str

    @contextmanager
    def joined(self, cpus: int) -> Iterator[Node]:
        """Have another node in the cluster, with so many processors. Raises: BenchError where it does not start."""
        with _new_node() as node:
            failed, told = _start(node.folder, f"--address={self.address}", f"--num-cpus={cpus}", *_ports(NODE_PORTS))
            if failed:
                raise BenchError(f"a node of Ray does not start: {told}")
            yield node


@contextmanager
def ray_cluster(cpus: int) -> Iterator[Cluster]:
    """Start a cluster with so many processors, as far as it counts; there is one such at a time on a machine.

    Raises: BenchError where it does not start.
    """
    with (Path(tempfile.gettempdir()) / "baton-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = ""
        for _ in range(TRIES):
            with _new_node() as node:
                ports = _ports(HEAD_PORTS)
                options = ("--head", f"--num-cpus={cpus}", "--include-dashboard=false", f"--temp-dir={node.folder}")
                failed, told = _start(node.folder, *options, *ports)
                if not failed:
                    yield Cluster(node.folder, f"{told.split()[0]}:{ports[0].rpartition('=')[2]}")
                    return
        raise BenchError(f"Ray does not start: {told}")


@contextmanager
def _new_node() -> Iterator[Node]:
    node = Node(Path(tempfile.mkdtemp(prefix="ray-")))  # paths of sockets are short
    try:
        yield node
    finally:
        node.end()
        shutil.rmtree(node.folder, ignore_errors=True)


def _ports(names: Sequence[str]) -> list[str]:
    return [f"--{name}={port}" for name, port in zip(names, free_ports(len(names)), strict=True)]


def _start(folder: Path, *options: str) -> tuple[bool, str]:
    """Start a node; return whether it failed, and what it told, of which this machine's address is the first word."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("BATON_", "RAY_ADDRESS"))}
    environment = outside | ENVIRONMENT | {MARK: str(folder)}
    command = [sys.executable, "-c", START, "start", *options]
    out, log = folder / "start.out", folder / "start.log"  # a pipe would be open as long as the node's processes
    with out.open("w") as to, log.open("w") as errors:
        try:
            subprocess.run(command, env=environment, stdout=to, stderr=errors, timeout=START_LIMIT_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
            return True, f"{failure}\n{out.read_text()}{log.read_text()}"
    return False, out.read_text()


def _marked(folder: Path) -> list[psutil.Process]:
    """Return the processes started in a node's environment, and those below, which may have overwritten theirs."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder):
                found |= {process, *process.children(recursive=True)}
    return [each for each in found if _lives(each)]


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
