"""`make stress`: a service after five times its peak, and beside thousands of connections that do nothing.

It knows loads and latencies, not how the service defends itself. Figures are ratios to the same service's own normal
load in the same run. Invariant: what is measured was measured while normal load was answered, or it is no figure.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
import websockets

from loadtests import report, requirements
from loadtests.closedloop import run_wrk
from loadtests.models import COMMITTED
from loadtests.openloop import OpenLoop, poisson, prepare
from loadtests.outcome import Array, Outcome
from loadtests.payloads import Pool, single_texts
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton, pss_mb
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "stress.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PEAK_S, PEAK_CONNECTIONS = 4.0, 64
NORMAL = 0.3  # of the peak
NORMAL_S = 10.0
OVERLOAD, OVERLOAD_S = 5.0, 60.0  # times the peak
WINDOW_S, STEADY_S = 0.25, 2.0
IDLE, ROUNDS = 5000, 7
SETTINGS = {"BATON_MAX_STREAMS": "6000", "BATON_STREAM_IDLE_S": "3600"}
RECOVERY_S, MEMORY, P99 = 1.0, 1.1, 1.5  # wanted at most
MOST_CONNECTIONS = 4096
OPENING = '{"model": "forecast-live"}'


def send(service: Running, pool: Pool, due: list[float], seconds: float) -> tuple[Outcome, OpenLoop]:
    load = OpenLoop(*prepare(service.url + pool.path, pool.bodies), due, seconds=seconds, most=MOST_CONNECTIONS)
    return uvloop.run(load.run()), load


def normal(service: Running, pool: Pool, peak: float, seed: int) -> Outcome:
    """Put normal load on the service. Raises: BenchError when it is not answered."""
    outcome, _ = send(service, pool, poisson(NORMAL * peak, NORMAL_S, seed), NORMAL_S)
    if set(outcome.statuses) != {HTTPStatus.OK} or outcome.unanswered:
        raise BenchError(f"normal load was not answered: {outcome.statuses}, {outcome.unanswered} without an answer")
    return outcome


def recovery_s(due: Array, ended: Array, status: Array, *, since_s: float, median_s: float) -> float:
    """Return how long after `since_s` it took until the service was as normal.

    Nothing is refused from then on, and for `STEADY_S` every window has a median of at most twice `median_s`. Infinite
    where that never came. Shapes: due, ended, status [arrivals].
    """
    window = np.floor((due - since_s) / WINDOW_S).astype(int)
    count, steady = window[-1] + 1, round(STEADY_S / WINDOW_S)
    slow = np.array([np.median((ended - due)[window == number]) > 2 * median_s for number in range(count)])
    refused = window[(window >= 0) & (status != HTTPStatus.OK)]
    first = refused[-1] + 1 if refused.size else 0
    starts = (start for start in range(first, count - steady + 1) if not slow[start : start + steady].any())
    return float(next(starts, np.inf)) * WINDOW_S


def overload(service: Running, pool: Pool, peak: float) -> dict[str, Any]:
    """Measure normal load, then five times the peak, and at once normal load again."""
    before = normal(service, pool, peak, seed=1)
    memory_mb = pss_mb(service.pid)
    after_it = [OVERLOAD_S + due for due in poisson(NORMAL * peak, NORMAL_S, seed=3)]
    due = [*poisson(OVERLOAD * peak, OVERLOAD_S, seed=2), *after_it]
    outcome, load = send(service, pool, due, OVERLOAD_S + NORMAL_S)
    assert before.p50_ms is not None
    took_s = recovery_s(*load.arrivals(), since_s=OVERLOAD_S, median_s=before.p50_ms / 1e3)
    after = normal(service, pool, peak, seed=4)
    return {
        "offered_per_s": OVERLOAD * peak,
        "sent_per_s": outcome.sent_per_s,
        "statuses": outcome.statuses,
        "connection_errors": outcome.connection_errors,
        "unanswered": outcome.unanswered,
        "recovery_s": took_s,
        "p99_ms": [before.p99_ms, after.p99_ms],
        "memory_mb": [memory_mb, pss_mb(service.pid)],
    }


def idle(service: Running, pool: Pool, peak: float) -> dict[str, Any]:
    """Measure normal load without and with idle streams, in turn."""
    alone, beside = [], []
    for seed in range(ROUNDS):
        alone.append(normal(service, pool, peak, seed).p99_ms)
        with holding(service, IDLE):
            beside.append(normal(service, pool, peak, seed).p99_ms)
    ratios = [with_them / without for with_them, without in zip(beside, alone, strict=True) if with_them and without]
    return {"connections": IDLE, "alone_p99_ms": alone, "beside_p99_ms": beside, "ratio": statistics.median(ratios)}


@contextmanager
def holding(service: Running, count: int) -> Iterator[None]:
    """Keep so many streams open, each with a session that takes no step, from a process of its own."""
    command = [sys.executable, "-m", "loadtests.stress", "--hold", str(count), "--url", service.url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != str(count):
            raise BenchError(f"{count} streams could not be opened")
        yield
    finally:
        process.communicate()


async def hold(url: str, count: int) -> None:
    """Open so many streams, say so, and keep them until stdin ends. Raises: BenchError for a stream that ends first."""
    address = url.replace("http", "ws", 1) + "/v1/stream"
    room = asyncio.Semaphore(50)

    async def begin() -> websockets.ClientConnection:
        async with room:
            connection = await websockets.connect(address, proxy=None, open_timeout=60, ping_interval=None)
            await connection.send(OPENING)
            if json.loads(await connection.recv())["type"] != "open":
                raise BenchError("a stream was refused")
            return connection

    streams = await asyncio.gather(*(begin() for _ in range(count)))
    print(count, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    if ended := sum(stream.close_code is not None for stream in streams):
        raise BenchError(f"{ended} idle streams were ended")
    for stream in streams:
        stream.transport.abort()


def run(data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, baton(COMMITTED, Path(scratch), **SETTINGS) as service:
        pool = single_texts(Path(scratch), data)
        peak = run_wrk(service, pool, connections=PEAK_CONNECTIONS, seconds=PEAK_S).requests_per_s
        found = {"idle": idle(service, pool, peak), "overload": overload(service, pool, peak)}
    about = {"date": datetime.now(UTC).date().isoformat(), "commit_date": requirements.commit_date()}
    return {**about, "peak_per_s": peak, **found}


def summary(result: dict[str, Any]) -> str:
    over, beside = result["overload"], result["idle"]
    grown = over["memory_mb"][1] / over["memory_mb"][0]
    rows = [
        (
            f"overload, {over['sent_per_s']:,.0f}/s sent for {OVERLOAD_S:g} s: normal again within",
            f"{over['recovery_s']:.2f} s",
            f"{RECOVERY_S:g} s",
            over["recovery_s"] <= RECOVERY_S,
        ),
        ("memory (PSS) after it over before", f"{grown:.3f}", f"{MEMORY:g}", grown <= MEMORY),
        (
            f"p99 of normal load beside {beside['connections']:,} idle streams over alone",
            f"{beside['ratio']:.2f}",
            f"{P99:g}",
            beside["ratio"] <= P99,
        ),
    ]
    told = [f"| {what} | {found} | {wanted} | {'met' if met else '**missed**'} |" for what, found, wanted, met in rows]
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(over["statuses"].items()))
    head = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}; peak {result['peak_per_s']:,.0f} "
        f"texts/s (closed loop), normal load {NORMAL:g} of it. Of the overload and the normal load behind it: "
        f"{statuses}, {over['connection_errors']} connections lost, {over['unanswered']} without an answer."
    )
    return "\n".join([head, "", "| what | measured | wanted at most | |", "|---|---|---|---|", *told])


def main(
    holds: Annotated[int, typer.Option("--hold", hidden=True)] = 0, url: Annotated[str, typer.Option(hidden=True)] = ""
) -> None:
    """Measure recovery from overload, and normal load beside idle streams; write docs/benchmarks.md (6 minutes)."""
    try:
        requirements.raise_open_files()
        if holds:
            asyncio.run(hold(url, holds))
            return
        requirements.require_wrk()
        result = run(requirements.data_dir())
        RESULTS.write_text(json.dumps(result) + "\n")
        report.write_between(PAGE, "stress", summary(result))
        print(summary(result))
    except BenchError as failure:
        sys.exit(f"stress: {failure}")


if __name__ == "__main__":
    typer.run(main)
