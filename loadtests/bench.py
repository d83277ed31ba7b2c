"""`make bench`: what the service costs, measured beside its floors in one run.

Start-up and memory of the committed models; then, for each kind of call, items per second through HTTP over one
connection, one request after the other, against the same rows through the same engine in this process, without HTTP,
JSON or tokens. Absolute numbers are this machine's; the ratios are what to compare. Writes
`loadtests/results/bench.json` and the tables of `docs/benchmarks.md`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service import runtime
from service.engine import Engine, Row
from service.metrics import Metrics, ModelMetrics
from service.repository import load_model
from service.settings import Settings

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"
RESULTS = ROOT / "loadtests" / "results" / "bench.json"
PAGE = ROOT / "docs" / "benchmarks.md"
STARTED = re.compile(r"Uvicorn running on (http://\S+)")
STARTS = 5
ROUNDS = 5
SECONDS_PER_ROUND = 2.0
WORDS = (
    "the",
    "film",
    "is",
    "a",
    "warm",
    ",",
    "funny",
    "and",
    "quietly",
    "moving",
    "story",
    "!",
    "never",
    "too",
    "long",
)


@contextmanager
def serving(state_dir: str) -> Iterator[tuple[str, int, float]]:
    """Start the service; yield its address, its process id and the seconds from exec to readiness."""
    environment = {**os.environ, "BATON_PORT": "0", "BATON_STATE_DIR": state_dir, "BATON_LOG_LEVEL": "info"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    url = next(match[1] for line in process.stderr if (match := STARTED.search(line)))
    httpx.get(f"{url}/readyz").raise_for_status()
    ready_s = time.perf_counter() - started
    with tempfile.TemporaryFile() as sink:
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=sink)
        yield url, process.pid, ready_s
        process.terminate()
        process.wait()
        drain.wait()
    process.stderr.close()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024 / 1e6  # type: ignore[index]


def measure_start() -> dict[str, float]:
    """Return the median time to readiness, and resident memory when ready and after one call of each kind."""
    times, idle_mb, used_mb = [], [], []
    with tempfile.TemporaryDirectory() as state_dir:
        for _ in range(STARTS):
            with serving(state_dir) as (url, pid, ready_s):
                times.append(ready_s)
                idle_mb.append(resident_mb(pid))
                for path, body in calls().values():
                    httpx.post(f"{url}{path}", json=body).raise_for_status()
                used_mb.append(resident_mb(pid))
    return {
        "start_to_ready_s": statistics.median(times),
        "resident_ready_mb": statistics.median(idle_mb),
        "resident_used_mb": statistics.median(used_mb),
    }


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=length)) for length in rng.integers(5, 40, size=count)]


def histories(count: int) -> list[list[float]]:
    rng = np.random.default_rng(1)
    return [np.cumsum(rng.normal(size=length)).round(3).tolist() for length in rng.integers(64, 513, size=count)]


def calls() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return one request body for each kind of call that is measured."""
    series = [{"values": values} for values in histories(16)]
    return {
        "sentiment, 1 text": ("/v1/sentiment", {"inputs": texts(1)}),
        "sentiment, 32 texts": ("/v1/sentiment", {"inputs": texts(32)}),
        "forecast, 16 series": ("/v1/forecast", {"series": series, "horizon": 48}),
        "step, 1 session": ("/v1/step", {"model": "forecast-live", "items": [{"values": [1.0]}]}),
        "step, 16 sessions": (
            "/v1/step",
            {"model": "forecast-live", "items": [{"values": [float(n)]} for n in range(16)]},
        ),
    }


def with_states(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a step request whose sessions are under way, so that tokens are opened as well as sealed."""
    results = client.post(path, json=body).json()["results"]
    items = [{**item, "state": result["state"]} for item, result in zip(body["items"], results, strict=True)]
    return {**body, "items": items}


def rows_of(engine: Engine, body: dict[str, Any]) -> list[Row]:
    dtype = engine.manifest.sequence.dtype
    if "inputs" in body:
        assert engine.model.vocabulary is not None
        encoded = engine.model.vocabulary.tokenizer.encode_batch(body["inputs"])
        return [Row(np.array(encoding.ids, dtype)) for encoding in encoded]
    if "series" in body:
        return [Row(np.array(series["values"], dtype)) for series in body["series"]]
    zeros = tuple(np.zeros(state.row_shape, state.dtype) for state in engine.manifest.states)
    return [Row(np.array(item["values"], dtype), zeros) for item in body["items"]]


def rate(work: Callable[[], object], items: int) -> float:
    """Return items per second of `work`, repeated for SECONDS_PER_ROUND."""
    started, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < SECONDS_PER_ROUND:
        work()
        done += items
    return done / elapsed


def newest(name: str) -> Path:
    return max((MODELS / name).iterdir(), key=lambda version: int(version.name))


def measure_calls() -> list[dict[str, Any]]:
    """Return, for each kind of call, items/s through HTTP and of the engine alone, measured in turn."""
    measured = []
    settings = Settings()
    with (
        tempfile.TemporaryDirectory() as state_dir,
        serving(state_dir) as (url, _, _),
        httpx.Client(base_url=url) as client,
    ):
        for name, (path, body) in calls().items():
            model = body.get("model", path.rsplit("/", 1)[1])
            engine = Engine(
                load_model(newest(model), device="cpu", intra_op_threads=1),
                settings,
                ModelMetrics(Metrics(), model, "bench"),
            )
            sent = with_states(client, path, body) if "items" in body else body
            content = json.dumps(sent).encode()
            items = len(next(value for value in body.values() if isinstance(value, list)))

            def through_http(path: str = path, content: bytes = content) -> None:
                client.post(path, content=content, headers={"content-type": "application/json"}).raise_for_status()

            def in_process(engine: Engine = engine, body: dict[str, Any] = body) -> None:
                engine.run(rows_of(engine, body))

            rounds = [(rate(through_http, items), rate(in_process, items)) for _ in range(ROUNDS)]
            measured.append(
                {
                    "call": name,
                    "http_items_per_s": statistics.median(http for http, _ in rounds),
                    "engine_items_per_s": statistics.median(floor for _, floor in rounds),
                    "ratio": statistics.median(http / floor for http, floor in rounds),
                    "rounds": rounds,
                }
            )
    return measured


def page(result: dict[str, Any]) -> str:
    start = result["start"]
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; raw numbers in `loadtests/results/bench.json`. "
        f"{result['machine']}, ONNX Runtime {runtime.VERSION}, {result['date']}.",
        "",
        "| start-up of the committed models | median |",
        "|---|---|",
        f"| start to ready | {start['start_to_ready_s']:.2f} s |",
        f"| resident memory when ready | {start['resident_ready_mb']:.0f} MB |",
        f"| resident memory after a call of each kind | {start['resident_used_mb']:.0f} MB |",
        "",
        "One client, one connection, one request after the other, client and server on the same cores. The floor is "
        "the same rows through the same engine in one process (tokenise, collate, run, split), without HTTP, JSON or "
        f"tokens. Medians of {ROUNDS} rounds of {SECONDS_PER_ROUND:g} s, floor and service in turn.",
        "",
        "| call | items/s through HTTP | items/s of the engine | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['call']} | {row['http_items_per_s']:,.0f} | {row['engine_items_per_s']:,.0f} | {row['ratio']:.2f} |"
        for row in result["calls"]
    ]
    lines += ["", "Concurrent load, overload and profiles are not measured here yet.", ""]
    return "\n".join(lines)


def main() -> None:
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "start": measure_start(),
        "calls": measure_calls(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    PAGE.write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
