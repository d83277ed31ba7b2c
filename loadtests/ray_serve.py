"""`make bench-ray`: two replicas on Ray Serve beside two workers of the service, under the same closed loop in turn.

It knows how both are started, not how they work. The cluster is started for it, on this machine; load and servers share
its cores. A figure is the median of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from loadtests import payloads, report, requirements
from loadtests.closedloop import Load, run_wrk
from loadtests.floors import TOKEN_KEY
from loadtests.models import gather_models
from loadtests.peers.processes import free_ports
from loadtests.ray_cluster import ENVIRONMENT, ray_cluster
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "ray_serve.json"
PAGE = ROOT / "docs" / "benchmarks.md"
REPLICAS, CONNECTIONS, SECONDS, ROUNDS = 2, 32, 8.0, 3
START_S = 180.0
SERVE = "from ray.serve.scripts import cli; cli()"
KEYS = json.dumps([TOKEN_KEY])


@contextmanager
def ray_serve(models: Path, folder: Path) -> Iterator[Running]:
    """Run replicas on a cluster that has processors enough. Raises: BenchError where they do not come up."""
    own = {
        "BATON_MODELS_DIR": str(models),
        "BATON_STATE_DIR": str(folder / "ray-state"),
        "BATON_TOKEN_KEYS": KEYS,
    }
    (port,) = free_ports(1)
    with ray_cluster(REPLICAS + 2) as cluster:
        environment = os.environ | ENVIRONMENT | own | {"RAY_ADDRESS": cluster.address}
        scale = (f"min_replicas={REPLICAS}", f"max_replicas={REPLICAS}")
        for options in (["start", "--http-port", str(port)], ["run", "service.ray:app", *scale, "--non-blocking"]):
            _run(options, environment)
        running = Running(f"http://127.0.0.1:{port}", os.getpid(), 0.0, REPLICAS)
        _wait_for(running)
        yield running


def _run(options: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", SERVE, *options]
    try:
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=START_S, check=True)
    except subprocess.CalledProcessError as failure:
        raise BenchError(f"{' '.join(options)}: {failure.stderr[-2000:]}") from None
    except subprocess.TimeoutExpired as failure:
        raise BenchError(str(failure)) from None


def _wait_for(running: Running) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{running.url}/readyz", timeout=5):  # noqa: S310 - the address is ours
                return
        except OSError:
            time.sleep(0.2)
    raise BenchError(f"Ray Serve does not answer within {START_S:g} s")


def run(data: Path, folder: Path) -> dict[str, Any]:
    rounds: dict[str, dict[str, list[Load]]] = {}
    (folder / "models").mkdir()
    models = gather_models(folder / "models")
    with (
        ray_serve(models, folder) as ray,
        baton(models, folder, BATON_WORKERS=str(REPLICAS), BATON_TOKEN_KEYS=KEYS) as service,
    ):
        pools = {
            "a text a request": payloads.single_texts(folder, data),
            "a step of a session a request": payloads.sessions(folder, service.url, 1),
        }
        for _ in range(ROUNDS):
            for what, pool in pools.items():
                for name, server in (("workers", service), ("ray", ray)):
                    load = run_wrk(server, pool, connections=CONNECTIONS, seconds=SECONDS)
                    rounds.setdefault(what, {}).setdefault(name, []).append(load)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit_date": requirements.commit_date(),
        "connections": CONNECTIONS,
        "rounds": {
            what: {name: [_kept(load) for load in loads] for name, loads in both.items()}
            for what, both in rounds.items()
        },
    }


def _kept(load: Load) -> dict[str, Any]:
    """Return what is known of a load: of Ray's processes the processor time is not."""
    known = asdict(load)
    return {name: known[name] for name in ("answers", "requests_per_s", "p50_ms", "p99_ms", "errors")}


def summary(result: dict[str, Any]) -> str:
    rows = []
    for what, both in result["rounds"].items():
        for name, title in (("workers", "Baton, two workers"), ("ray", "Ray Serve, two replicas")):
            seen = {
                figure: statistics.median(load[figure] for load in both[name])
                for figure in ("requests_per_s", "p50_ms", "p99_ms")
            }
            errors = sum(load["errors"] for load in both[name])
            rows.append(
                f"| {what} | {title} | {seen['requests_per_s']:,.0f} | {seen['p50_ms']:.0f} ms | "
                f"{seen['p99_ms']:.0f} ms | {errors} |"
            )
    head = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {result['connections']} connections; "
        f"median of {len(both['ray'])} rounds in turn."
    )
    table = ["| what | where | requests/s | p50 | p99 | errors |", "|---|---|---|---|---|---|", *rows]
    return "\n".join([head, "", *table])


def main() -> None:
    """Measure Ray Serve beside the service's own workers; write docs/benchmarks.md (3 minutes)."""
    try:
        requirements.require_wrk()
        with tempfile.TemporaryDirectory() as folder:
            result = run(requirements.data_dir(), Path(folder))
        RESULTS.write_text(json.dumps(result) + "\n")
        report.write_between(PAGE, "ray", summary(result))
        print(summary(result))
    except BenchError as failure:
        sys.exit(f"ray_serve: {failure}")


if __name__ == "__main__":
    typer.run(main)
