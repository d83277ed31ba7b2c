"""A Ray cluster of its own on this machine, of one node, for as long as a block lasts.

It knows how Ray is started and which processes came of it, not what they do. The environment of a cluster's processes
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.peers.processes import free_ports
from loadtests.requirements import BenchError

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "default"}
MARK = "CLUSTER_FOLDER"
PORTS = ("port", "ray-client-server-port", "dashboard-agent-listen-port")
START = "import ray; from ray.scripts.scripts import main; print(ray.util.get_node_ip_address()); main()"
TRIES, START_LIMIT_S, LOOK_LIMIT_S = 3, 300, 120  # a busy machine may take longer than Ray's own parts wait


@dataclass(frozen=True)
class Cluster:
    """A cluster that listens at `address`, and whose files are in `folder`."""

    address: str
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


@contextmanager
def ray_cluster(cpus: int) -> Iterator[Cluster]:
    """Start a cluster with so many processors, as far as it counts; there is one such at a time on a machine.

    Raises: BenchError where it does not start.
    """
    with (Path(tempfile.gettempdir()) / "baton-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = ""
        for _ in range(TRIES):
            with _own_folder() as folder:
                address, told = _start(cpus, folder)
                if address is not None:
                    yield Cluster(address, folder)
                    return
        raise BenchError(f"Ray does not start: {told}")


@contextmanager
def _own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # paths of sockets are short
    try:
        yield folder
    finally:
        while running := _marked(folder):  # what was killed may just have started another
            for process in running:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(running, timeout=1)
        shutil.rmtree(folder, ignore_errors=True)


def _start(cpus: int, folder: Path) -> tuple[str | None, str]:
    """Return where the cluster listens, or None if it did not start, and then what was told."""
    ports = free_ports(len(PORTS))
    options = ["--head", f"--num-cpus={cpus}", "--include-dashboard=false", f"--temp-dir={folder}"]
    options += [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("BATON_", "RAY_ADDRESS"))}
    environment = outside | ENVIRONMENT | {MARK: str(folder)}
    command = [sys.executable, "-c", START, "start", *options]
    out, log = folder / "start.out", folder / "start.log"  # a pipe would be open as long as the cluster's processes
    with out.open("w") as to, log.open("w") as errors:
        try:
            subprocess.run(command, env=environment, stdout=to, stderr=errors, timeout=START_LIMIT_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as failure:
            return None, f"{failure}\n{out.read_text()}{log.read_text()}"
    return f"{out.read_text().split()[0]}:{ports[0]}", ""


def _marked(folder: Path) -> list[psutil.Process]:
    """Return the processes started in a cluster's environment, and those below, which may have overwritten theirs."""
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
