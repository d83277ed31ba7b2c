"""`make bench-scale`: measure, fit the simulation to one replica, predict the others, and plan.

`measure` writes what was measured to `loadtests/results/scale.json`; `predict` adds what follows from it, and writes
the tables of docs/scale.md. It knows files and order, not what is measured or how anything is simulated.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from loadtests import requirements
from loadtests.bench import facts
from loadtests.report import write_between
from loadtests.requirements import BenchError
from loadtests.scale import measure as measuring
from loadtests.scale import plan, tables
from loadtests.scale.calibration import fit, medians
from loadtests.scale.fleet import Fleet, drain_s, follow
from loadtests.simulate import Setup, simulate
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale.md"
FLEETS = tuple(Fleet(replicas=20, sessions=20 * each) for each in (10, 100, 1000))
TABLES = {"points": tables.points, "needs": tables.needs, "pinning": tables.pinning}
Raw = dict[str, Any]

app = typer.Typer(add_completion=False)


@app.command()
def measure() -> None:
    """Measure one, two and three replicas."""
    try:
        requirements.require_wrk()
        result = facts(requirements.cores(), requirements.raise_open_files()) | {"load_average": os.getloadavg()[1]}
        del result["timing"]  # of other benchmarks
        with tempfile.TemporaryDirectory() as folder:
            result["measured"] = measuring.measure(Path(folder))
    except BenchError as failure:
        sys.exit(f"scale: {failure}")
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


@app.command()
def predict() -> None:
    """Fit the simulation to the loads of one replica, simulate all, and write docs/scale.md."""
    result = json.loads(RESULTS.read_text())
    result |= predicted(result["measured"])
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    for name, table in TABLES.items():
        write_between(PAGE, name, table(result))


def predicted(measured: Raw) -> Raw:
    """Return the fitted costs, what they say of each point that was measured, and what plans are made of."""
    think_s, of_all = measured["think_ms"] / 1e3, measured["points"]
    one = [{"sessions": point["sessions"], **medians(point["rounds"])} for point in of_all if point["replicas"] == 1]
    costs = fit(one, think_s)
    return {
        "costs": asdict(costs),
        "simulated": [
            asdict(simulate(Setup(point["replicas"], point["sessions"], think_s), costs)) for point in of_all
        ],
        "alone": [asdict(outcome) for outcome in plan.bears(costs)],
        "fleets": [
            {
                "fleet": asdict(fleet),
                "pinned": asdict(follow(fleet, pinned=True)),
                "tokens": asdict(follow(fleet, pinned=False)),
                "drain_s": drain_s(fleet),
            }
            for fleet in FLEETS
        ],
    }


if __name__ == "__main__":
    app()
