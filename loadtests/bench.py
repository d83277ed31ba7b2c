"""`make bench`: what the service costs, measured beside its floors in one run.

It starts the service with default settings over the committed models and two references, measures the scenarios, and
writes `loadtests/results/bench.json`, the tables of `docs/benchmarks.md` and its plots. With scenarios named, it
measures those alone and prints their tables.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests import report, requirements, workbench
from loadtests.models import gather_models
from loadtests.plots import plot_sweep
from loadtests.requirements import BenchError
from loadtests.scenarios import SCENARIOS
from loadtests.serving import baton
from loadtests.workbench import Bench
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "bench.json"
PAGE = ROOT / "docs" / "benchmarks.md"
LOAD_PLOT, BATCHING_PLOT = ROOT / "docs" / "benchmarks-load.svg", ROOT / "docs" / "benchmarks-batching.svg"
PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "pydantic", "tokenizers", "numpy")


def facts(cores: int, open_files: int) -> dict[str, Any]:
    """Return when, where and with what is measured by wrk."""
    found = machine_facts(cores, open_files)
    found["versions"]["wrk"] = requirements.wrk_version()
    return {**found, "timing": {"rounds": workbench.ROUNDS, "seconds": workbench.SECONDS}}


def machine_facts(cores: int, open_files: int) -> dict[str, Any]:
    """Return when and where is measured, and with which versions."""
    named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = {"Python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit_date": requirements.commit_date(),
        "machine": {
            "cores": cores,
            "processor": named[1] if named else platform.machine(),
            "system": platform.platform(),
            "open_files": open_files,
        },
        "versions": versions,
    }


def publish(
    name: str,
    measure: Callable[[Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    results: Path,
    page: Path,
) -> None:
    """Measure, write the raw numbers to `results` and their table to its place on a page; end where there are none."""
    try:
        result = machine_facts(requirements.cores(), requirements.raise_open_files())
        with tempfile.TemporaryDirectory() as folder:
            result |= measure(Path(folder))
    except BenchError as failure:
        sys.exit(f"{name}: {failure}")
    results.write_text(json.dumps(result, indent=2) + "\n")
    report.write_between(page, name, table(result))
    print(table(result))


def measure(names: list[str], data: Path, cores: int) -> dict[str, Any]:
    """Return the raw results of the scenarios called `names`, and how many workers the service had."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "models").mkdir()
        models = gather_models(folder / "models")
        with baton(models, folder) as service:
            bench = Bench(service, models, data, folder, cores)
            for name in names:
                started = time.perf_counter()
                found[name] = SCENARIOS[name](bench)
                print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return {"workers": service.workers, "scenarios": found}


def write(result: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    plot_sweep(result["scenarios"]["sweep"], LOAD_PLOT, BATCHING_PLOT)
    report.write_between(PAGE, "bench", report.page(result))


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help=f"Of {', '.join(SCENARIOS)}; all, by default.")
    ] = None,
) -> None:
    """Measure, and write docs/benchmarks.md and loadtests/results/bench.json; with scenarios named, only print."""
    try:
        unknown = set(names or ()) - set(SCENARIOS)
        if unknown:
            raise BenchError(f"no scenario is called {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
        requirements.require_wrk()
        data, cores = requirements.data_dir(), requirements.cores()
        result = facts(cores, requirements.raise_open_files())
        result |= measure(names or list(SCENARIOS), data, cores)
        if not names:
            write(result)
        print(report.page(result))
    except BenchError as failure:
        sys.exit(f"bench: {failure}")


if __name__ == "__main__":
    typer.run(main)
