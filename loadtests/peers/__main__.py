"""`make bench-peers`: Baton beside other servers on the same graphs, under the same load.

It installs the peers where need be, measures them in rounds, and writes `loadtests/results/peers.json` and the tables
in `docs/benchmarks.md`. With peers named, it measures Baton and those alone and prints their tables.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtests import bench, report, requirements
from loadtests.peers import table
from loadtests.peers.catalogue import OURS, SERVERS
from loadtests.peers.environments import CACHE
from loadtests.peers.measure import measure
from loadtests.requirements import BenchError

RESULTS = bench.RESULTS.with_name("peers.json")


def facts(rounds: int, seconds: float) -> dict[str, Any]:
    """Return when, where and with what is measured."""
    found = bench.facts(requirements.cores(), requirements.raise_open_files())
    return {**found, "timing": {"rounds": rounds, "seconds": seconds}}


def write(result: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    report.write_between(bench.PAGE, "peers", table.page(result))


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[PEER]...", help=f"Of {', '.join(SERVERS)}; all, by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each server is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="How long each load is measured.")] = 4,
    cache: Annotated[Path, typer.Option(help="Where the peers' environments are kept.")] = CACHE,
) -> None:
    """Measure Baton beside other servers; with peers named, only print."""
    try:
        unknown = set(names or ()) - set(SERVERS)
        if unknown:
            raise BenchError(f"no peer is called {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
        requirements.require_wrk()
        chosen = {name: server for name, server in SERVERS.items() if not names or name in names}
        result = facts(rounds, seconds)
        result["servers"] = measure({**OURS, **chosen}, rounds=rounds, seconds=seconds, cache=cache)
        if not names:
            write(result)
        print(table.page(result))
    except BenchError as failure:
        sys.exit(f"peers: {failure}")


if __name__ == "__main__":
    typer.run(main)
