"""Processes under test: the service and the baselines, started, watched and ended.

It knows commands, `/proc` and `/metrics`, not what is asked of a process. Log output goes to a file, as it would in
production, so that nobody has to read it while time is measured. Invariant: what is read of a server is of all its
processes, however many workers there are.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtests.baselines import MODEL_VARIABLE
from loadtests.requirements import BenchError
from service.errors import StartupError
from service.launch import SERVE, launch

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A server of so many `workers` at `url`; `ready_s` is the time from exec until it answered."""

    url: str
    pid: int
    ready_s: float
    workers: int = 1


@contextmanager
def baton(models: Path, folder: Path, **settings: str) -> Iterator[Running]:
    """Run the service with default settings, but for `settings`, over `models`; `folder` takes its key and its log."""
    own = {"BATON_PORT": "0", "BATON_MODELS_DIR": str(models), "BATON_STATE_DIR": str(folder / "state"), **settings}
    with _running(SERVE, own, folder) as (process, url, started):
        read(f"{url}/readyz")
        ready_s = time.perf_counter() - started
        yield Running(url, process.pid, ready_s, json.loads(read(f"{url}/v1/info"))["workers"])


@contextmanager
def baseline(name: str, folder: Path, *, workers: int = 1, model: Path | None = None) -> Iterator[Running]:
    """Run an application of `loadtests.baselines` with so many workers; `model` is the directory of what it serves."""
    command = [sys.executable, "-m", "loadtests.baselines.server", name, "--workers", str(workers)]
    with _running(command, {MODEL_VARIABLE: str(model)} if model else {}, folder) as (process, url, started):
        yield Running(url, process.pid, time.perf_counter() - started, workers)


@contextmanager
def _running(
    command: Sequence[str], own: dict[str, str], folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str, float]]:
    with tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log") as log:
        started = time.perf_counter()
        try:
            process, url = launch(Path(log.name), own, command)
        except StartupError as failure:
            raise BenchError(str(failure)) from None
        try:
            yield process, url, started
        finally:
            process.terminate()
            process.wait()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of a service started here
        text: str = answer.read().decode()
        return text


def metrics(url: str) -> dict[str, float]:
    """Return the service's metrics by sample name, summed over labels; 0 for what was never counted."""
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(read(f"{url}/metrics")):
        for sample in family.samples:
            sums[sample.name] += sample.value
    return sums


@dataclass(frozen=True)
class Cores:
    """Processor use in cores: of the load's client, of the server, and of everything else on the machine.

    Units: `server_s` is what the server used in all, seconds of processor time.
    """

    client: float
    server: float
    other: float
    server_s: float


class CoresWatch:
    """Counts from its creation; the client is whatever child processes have ended since then."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._started, self._before = time.perf_counter(), self._read()

    def used(self) -> Cores:
        elapsed = time.perf_counter() - self._started
        client_s, server_s, busy_s = (now - before for now, before in zip(self._read(), self._before, strict=True))
        other_s = max(0.0, busy_s - client_s - server_s)
        return Cores(client_s / elapsed, server_s / elapsed, other_s / elapsed, server_s)

    def _read(self) -> tuple[float, float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + sum(rest)) / TICKS_PER_S  # without idle and iowait; with steal
        return children.ru_utime + children.ru_stime, cpu_seconds(self._server.pid), busy


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have used, those that have ended among them."""
    total = 0
    for member in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # a child may have ended since it was listed
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
    return total / TICKS_PER_S


def pss_mb(pid: int) -> float:
    """Return the memory of a process and its children in MB (10^6 bytes).

    A page that several processes share is divided among them, so the sum is what the machine has given.
    """
    kib = 0
    for member in family(pid):
        rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
        kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kib * 1024 / 1e6


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process and its children have open."""
    count = 0
    for member in family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # a child may have ended since it was listed
            count += len(list(Path(f"/proc/{member}/fd").iterdir()))
    return count


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
