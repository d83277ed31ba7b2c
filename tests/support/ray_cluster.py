"""A Ray cluster of the tests' own, of one node on this machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from conftest import free_port

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONWARNINGS": "default"}
OTHER_PORTS = ("ray-client-server-port", "dashboard-agent-listen-port")
START = "import ray; from ray.scripts.scripts import main; print(ray.util.get_node_ip_address()); main()"


@dataclass(frozen=True)
class Cluster:
    """A cluster that listens at `address`, and whose files are in `folder`."""

    address: str
    folder: Path

    def processes(self, name: str) -> list[psutil.Process]:
        """Return its processes that Ray calls by a name with `name` in it, at least one."""
        found = [process for process in self._all() if name in "".join(process.cmdline())]
        assert found, name
        return found

    def kill(self) -> None:
        for process in self._all():
            process.kill()

    def _all(self) -> list[psutil.Process]:
        started = [(each, "".join(each.info["cmdline"] or ())) for each in psutil.process_iter(["cmdline"])]
        heads = [process for process, command in started if str(self.folder) in command]
        return [*{below for head in heads for below in (head, *head.children(recursive=True))}]


@contextmanager
def ray_cluster(cpus: int) -> Iterator[Cluster]:
    """Start a cluster with so many processors, as far as it counts; the tests of a machine have one at a time."""
    with (Path(tempfile.gettempdir()) / "baton-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _started(cpus) as cluster:
            yield cluster


@contextmanager
def _started(cpus: int) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray-")  # paths of sockets are short
    port, *others = (free_port() for _ in range(3))
    options = ["--head", f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false", f"--temp-dir={folder}"]
    options += [f"--{name}={other}" for name, other in zip(OTHER_PORTS, others, strict=True)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    command = [sys.executable, "-c", START, "start", *options]
    started = subprocess.run(command, env=outside | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stdout + started.stderr
    cluster = Cluster(f"{started.stdout.split()[0]}:{port}", Path(folder))
    try:
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)
