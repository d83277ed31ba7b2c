"""Processes under test: the service and the baselines, started, watched and ended.

It knows commands, `/proc` and `/metrics`, not what is asked of a process. Log output goes to a file, as it would in
production, so that nobody has to read it while time is measured.
"""

from __future__ import annotations

import os
import resource
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

from loadtests.requirements import BenchError
from service.errors import StartupError
from service.launch import SERVE, launch

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Running:
    """A server at `url`; `ready_s` is the time from exec until it answered."""

    url: str
    pid: int
    ready_s: float


@contextmanager
def baton(models: Path, folder: Path, **settings: str) -> Iterator[Running]:
    """Run the service with default settings, but for `settings`, over `models`; `folder` takes its key and its log."""
    own = {"BATON_PORT": "0", "BATON_MODELS_DIR": str(models), "BATON_STATE_DIR": str(folder / "state"), **settings}
    with _running(SERVE, own, folder, ready_path="/readyz") as running:
        yield running


@contextmanager
def baseline(name: str, folder: Path) -> Iterator[Running]:
    """Run an application of `loadtests.baselines`, as uvicorn is run in production: one worker, no access log."""
    options = ["--port", "0", "--no-access-log", "--workers", "1", "--loop", "uvloop", "--http", "httptools"]
    options += ["--ws", "websockets-sansio"]
    command = [sys.executable, "-m", "uvicorn", f"loadtests.baselines.{name}:app", *options]
    with _running(command, {}, folder, ready_path="/openapi.json") as running:
        yield running


@contextmanager
def _running(command: Sequence[str], own: dict[str, str], folder: Path, ready_path: str) -> Iterator[Running]:
    with tempfile.NamedTemporaryFile("w+", dir=folder, suffix=".log") as log:
        started = time.perf_counter()
        try:
            process, url = launch(Path(log.name), own, command)
        except StartupError as failure:
            raise BenchError(str(failure)) from None
        try:
            read(f"{url}{ready_path}")
            yield Running(url, process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait()


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
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
    """Processor use in cores: of the load's client, of the server, and of everything else on the machine."""

    client: float
    server: float
    other: float


class CoresWatch:
    """Counts from its creation; the client is whatever child processes have ended since then."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._started, self._before = time.perf_counter(), self._read()

    def used(self) -> Cores:
        elapsed = time.perf_counter() - self._started
        client, server, busy = ((n - b) / elapsed for n, b in zip(self._read(), self._before, strict=True))
        return Cores(client, server, max(0.0, busy - client - server))

    def _read(self) -> tuple[float, float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        busy = (user + nice + system + sum(rest)) / TICKS_PER_S  # without idle and iowait; with steal
        return children.ru_utime + children.ru_stime, cpu_seconds(self._server.pid), busy


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and its children have used."""
    total = 0
    for member in _family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # a child may have ended since it was listed
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
    return total / TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children in MB (10^6 bytes)."""
    pages = sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in _family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _family(pid: int) -> list[int]:
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
