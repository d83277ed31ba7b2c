"""`python -m loadtests.command_line`: `baton forecast` in process against a loop of HTTP calls, over one CSV in turn.

The loop is `loadtests.forecast_loop`, to a service that runs already, with a worker for each core. Each side is a
command of its own, timed from its start to its end. It writes the table between its marks in docs/command-line.md.
Invariant: both sides wrote the same forecasts, or there is no figure.
"""

from __future__ import annotations

import csv
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import psutil
import typer

from loadtests import requirements
from loadtests.forecast_loop import HEAD, HORIZON, LEVEL
from loadtests.requirements import BenchError
from loadtests.serving import baton

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "command-line.md"
BEGIN, END = "<!-- forecast:begin -->", "<!-- forecast:end -->"
SERIES, VALUES = 1000, 500
ROUNDS, WANTED = 5, 2.0
APART = 1e-3  # relative: both run in float32, in other batches
OWN, LOOP = "`baton forecast`, in process", "a loop of HTTP calls"


def write_series(file: Path) -> None:
    """Write random walks with a season, drawn by seed, as a table of one value a line."""
    rng = np.random.default_rng(0)
    walks = rng.normal(size=(SERIES, VALUES)).cumsum(axis=1) + 5 * np.sin(np.arange(VALUES) * 2 * np.pi / 24)
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["series", "y"])
        rows.writerows([name, f"{value:.4f}"] for name, walk in enumerate(walks) for value in walk)


@dataclass(frozen=True)
class Took:
    """What a side took in a round, in seconds: `passed` by the clock, and `cpu` of its command and of the service."""

    passed: float
    cpu: float


def measure(folder: Path) -> dict[str, list[Took]]:
    """Return what each side took in each round.

    Raises: BenchError when their forecasts differ.
    """
    source, own, looped = folder / "series.csv", folder / "own.csv", folder / "loop.csv"
    write_series(source)
    took: dict[str, list[Took]] = {OWN: [], LOOP: []}
    with baton(ROOT / "models", folder) as service:
        options = ["--column", "y", "--by", "series", "--horizon", str(HORIZON), "--levels", str(LEVEL)]
        commands = {
            OWN: [sys.executable, "-m", "service", "forecast", str(source), *options, "--output", str(own)],
            LOOP: [sys.executable, "-m", "loadtests.forecast_loop", service.url, str(source), str(looped)],
        }
        for _ in range(1 + ROUNDS):
            for name, command in commands.items():
                took[name].append(_run(command, service.pid))
            _check_same(own, looped)
    return {name: times[1:] for name, times in took.items()}  # the first warms the service and the disk


def _run(command: Sequence[str], service: int) -> Took:
    """Raises: BenchError when the command fails."""
    cpu, started = _cpu_s(service), time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise BenchError(f"{' '.join(command[:4])} failed: {ended.stderr}")
    return Took(time.perf_counter() - started, _cpu_s(service) - cpu)


def _cpu_s(service: int) -> float:
    """Return the processor time of the commands that have ended, and of the service with its workers."""
    parent = psutil.Process(service)
    running = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(each.user + each.system for each in running) + ended.ru_utime + ended.ru_stime


def _check_same(own: Path, looped: Path) -> None:
    """Raises: BenchError."""
    one, other = (np.loadtxt(file, delimiter=",", skiprows=1) for file in (own, looped))
    if one.shape != (SERIES * HORIZON, len(HEAD)) or not np.allclose(one, other, rtol=APART, atol=APART):
        raise BenchError("the forecasts of both sides differ")


def table(took: dict[str, list[Took]]) -> str:
    """Return the medians of the times, and of the ratios within a round."""
    lines = ["| 1,000 series of 500 values | s | of each round | processor time, s |", "|---|---|---|---|"]
    for name, rounds in took.items():
        each = ", ".join(f"{one.passed:.2f}" for one in rounds)
        passed, cpu = (statistics.median(times) for times in zip(*map(astuple, rounds), strict=True))
        lines.append(f"| {name} | {passed:.2f} | {each} | {cpu:.2f} |")
    pairs = list(zip(took[OWN], took[LOOP], strict=True))
    ratio, cpu = (
        statistics.median(times)
        for times in zip(*((b.passed / a.passed, b.cpu / a.cpu) for a, b in pairs), strict=True)
    )
    met = "met" if ratio >= WANTED else "**missed**"
    return "\n".join([*lines, f"| ratio | {ratio:.2f} | wanted: {WANTED:g}, {met} | {cpu:.2f} |"])


def main() -> None:
    """Measure both sides, and write the figure into the page."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = table(measure(Path(folder)))
    except BenchError as failure:
        sys.exit(f"command line: {failure}")
    about = (
        f"Measured on {time.strftime('%Y-%m-%d')}: {requirements.cores()} cores, Python {platform.python_version()}; "
        f"{ROUNDS} rounds in turn, whole commands from start to end. Medians, the ratio's within a round."
    )
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{about}\n\n{found}\n\n{END}{rest.split(END)[1]}")
    print(found)


if __name__ == "__main__":
    typer.run(main)
