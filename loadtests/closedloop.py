"""Closed-loop load with wrk: so many connections, each sending its next request when it has its answer.

It knows wrk, processor times and the service's metrics, not what the requests mean. Each figure comes with what tells
whether it can be believed: errors, and how busy client and server were.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.payloads import Pool
from loadtests.requirements import BenchError
from loadtests.serving import Cores, CoresWatch, Running, metrics

SCRIPT = Path(__file__).with_name("wrk.lua")
THREADS = 2


@dataclass(frozen=True)
class Load:
    """What one run of a generator saw; `errors` are requests without an answer of 2xx or 3xx.

    Units: `cpu_us` is the server's processor time an answered item, of all its processes and threads.
    """

    answers: int
    requests_per_s: float
    items_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float
    cores: Cores


@dataclass(frozen=True)
class Batching:
    """What the service's runs were like meanwhile: padded over real cells, rows a run; and items it refused."""

    padding: float
    batch_rows: float
    failed_items: int


def run_wrk(server: Running, pool: Pool, *, connections: int, seconds: float) -> Load:
    """Load `server` with the bodies of `pool`. Raises: BenchError when wrk fails."""
    command = ["wrk", "-t", str(THREADS), "-c", str(connections), "-d", f"{seconds:g}s", "--timeout", "30s"]
    command += ["-s", str(SCRIPT), f"{server.url}{pool.path}", "--", str(pool.file)]
    if pool.head_bytes:
        command += [str(len(pool.bodies[0])), str(pool.head_bytes)]
    watch = CoresWatch(server)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    cores = watch.used()
    if ended.returncode:
        raise BenchError(f"wrk failed: {ended.stderr.strip() or ended.stdout.strip()}")
    seen = json.loads(ended.stdout.splitlines()[-1])
    answers = seen["requests"] - seen["errors"]
    requests_per_s = answers / seen["duration_us"] * 1e6
    return Load(
        answers=answers,
        requests_per_s=requests_per_s,
        items_per_s=requests_per_s * pool.items,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        errors=seen["errors"],
        cpu_us=1e6 * cores.server_s / max(1, answers * pool.items),
        cores=cores,
    )


def batching(before: dict[str, float], after: dict[str, float]) -> Batching:
    """Return what happened between two readings of the service's metrics; padding 1 and no rows where no run was."""

    def counted(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    steps, runs = counted("baton_steps_total"), counted("baton_batch_rows_count")
    return Batching(
        padding=counted("baton_batch_cells_sum") / steps if steps else 1.0,
        batch_rows=counted("baton_batch_rows_sum") / runs if runs else 0.0,
        failed_items=round(counted("baton_item_errors_total")),
    )


def load_service(service: Running, pool: Pool, *, connections: int, seconds: float) -> tuple[Load, Batching]:
    before = metrics(service.url)
    load = run_wrk(service, pool, connections=connections, seconds=seconds)
    return load, batching(before, metrics(service.url))
