"""`make soak`: do memory and descriptors stay where they are, and is nothing left behind?

Requests of random shapes to every kind of endpoint of /v1 and /v2, streams, events of generations, and clients that
vanish in the middle of any of them, against a service of two workers, for ten minutes. It knows requests and what a
process takes, not speed. Invariant: every request whose client stayed was answered in full, or the soak fails.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any

import httpx
import typer
import websockets

from loadtests import report, requirements
from loadtests.models import COMMITTED
from loadtests.plots import plot_memory
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton, descriptors, metrics, pss_mb
from loadtests.shapes import Shapes
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "soak.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks-soak.svg"
SECONDS, CLIENTS, SAMPLES = 600.0, 8, 200
GROWTH = 1.05
MOST_FRAMES, FRAMES_BEFORE_LEAVING, VANISHING = 32, 4, 0.5
QUIET_S = 30.0  # for what was abandoned to end
SETTINGS = {
    "BATON_WORKERS": "2",
    "BATON_MAX_WAIT_MS": "60000",
    "BATON_TIMEOUT_MS": "60000",  # a slow machine is no overload
    "BATON_STORE_BYTES": "8388608",  # held states fill it soon: until then its file is read into memory
}
LEFT = ("baton_queue_rows", "baton_streams", "baton_generations")  # must be 0 once nobody calls
SPARE_TASKS = 4  # of each worker, that come and go with the metrics' own request
EVENTS = {"model": "charlm", "items": [{"prompt": "A good "}], "max_steps": 200, "stream": True}


@dataclass(frozen=True)
class Sample:
    """What the service took after so many requests. Units: memory in MB."""

    requests: int
    memory_mb: float
    descriptors: int
    tasks: float


class Soak:
    """Clients of a service, that count what they did in `done`."""

    def __init__(self, service: Running, shapes: Shapes, seed: int) -> None:
        self._service, self._shapes, self._rng = service, shapes, Random(seed)
        self._host, self._port = service.url.removeprefix("http://").rsplit(":", 1)
        self.done: Counter[str] = Counter()
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "requests": (16, self._ask),
            "streams": (2, self._stream),
            "events": (1, self._listen),
            "vanished": (2, self._vanish),
        }

    async def run(self, seconds: float) -> list[Sample]:
        """Work for so long, and return what the service took meanwhile.

        Raises: BenchError for a request that was not answered in full.
        """
        until = time.monotonic() + seconds
        async with (
            httpx.AsyncClient(base_url=self._service.url, timeout=60) as self._http,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(CLIENTS):
                tasks.create_task(self._work(until))
            return await self._watch(until, seconds / SAMPLES)

    def sample(self) -> Sample:
        tasks = metrics(self._service.url)["baton_tasks"]
        return Sample(self.done.total(), pss_mb(self._service.pid), descriptors(self._service.pid), tasks)

    async def _work(self, until: float) -> None:
        while time.monotonic() < until:
            name = self._rng.choices([*self._kinds], [weight for weight, _ in self._kinds.values()])[0]
            await self._kinds[name][1]()
            self.done[name] += 1

    async def _watch(self, until: float, every_s: float) -> list[Sample]:
        samples = []
        while time.monotonic() < until:
            samples.append(await asyncio.to_thread(self.sample))
            await asyncio.sleep(every_s)
        return samples

    async def _ask(self) -> None:
        path, body = self._shapes.draw()
        answer = await self._http.post(path, json=body)
        content = answer.json()
        if answer.status_code != httpx.codes.OK or content.get("summary", {}).get("failed"):
            raise BenchError(f"a request to {path} was answered {answer.status_code}: {answer.text[:1000]}")
        self._shapes.keep(body, content)

    async def _stream(self) -> None:
        """Take steps on a stream, and leave it as it should be left, or in the middle of a frame's work."""
        url = self._service.url.replace("http", "ws", 1) + "/v1/stream"
        async with websockets.connect(url, proxy=None) as connection:
            await connection.send('{"model": "forecast-live", "checkpoint_every": 8}')
            for _ in range(self._rng.randint(1, MOST_FRAMES)):
                await connection.send(json.dumps({"values": self._shapes.history()}))
                while (frame := json.loads(await connection.recv()))["type"] != "step":
                    if frame["type"] == "error":
                        raise BenchError(f"a frame was refused: {frame}")
            if self._rng.random() < VANISHING:
                await connection.send(json.dumps({"values": self._shapes.history()}))
                connection.transport.abort()

    async def _listen(self) -> None:
        """Read the events of a generation to their end, or leave after the first few."""
        leaves = self._rng.random() < VANISHING
        async with self._http.stream("POST", "/v1/generate", json=EVENTS) as answer:
            count, line = 0, ""
            async for line in answer.aiter_lines():
                count += line.startswith("data: ")
                if leaves and count > FRAMES_BEFORE_LEAVING:
                    return
        if '"error"' in line or not count:
            raise BenchError(f"a generation ended with {line[:1000]}")

    async def _vanish(self) -> None:
        """Send a request, or a part of it, and close the connection."""
        path, body = self._shapes.draw()
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        whole = f"{head}content-length: {len(content)}\r\n\r\n".encode() + content
        _, writer = await asyncio.open_connection(self._host, int(self._port))
        writer.write(whole[: self._rng.randint(1, len(whole))] if self._rng.random() < VANISHING else whole)
        await writer.drain()
        writer.transport.abort()


def growth(series: Sequence[float]) -> float:
    """Return the median of the last quarter over that of the second. Shapes: series, at least four samples."""
    quarter = len(series) // 4
    return statistics.median(series[-quarter:]) / statistics.median(series[quarter : 2 * quarter])


def left_behind(service: Running, soak: Soak, before: Sample) -> dict[str, float]:
    """Return what is there beyond what was `before`, once the service had time to end what was abandoned."""
    until = time.monotonic() + QUIET_S
    while True:
        now, counted = soak.sample(), metrics(service.url)
        left = {name: counted[name] for name in LEFT if counted[name]}
        if now.tasks > before.tasks + SPARE_TASKS:
            left["baton_tasks"] = now.tasks - before.tasks
        if now.descriptors > before.descriptors + SPARE_TASKS:
            left["descriptors"] = now.descriptors - before.descriptors
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.5)


def verdict(result: dict[str, Any]) -> list[str]:
    """Return what is not as it should be."""
    wrong = [
        f"{name} grew: {result['growth'][name]:.3f}"
        for name in ("memory", "descriptors")
        if result["growth"][name] > GROWTH
    ]
    if result["left"]:
        wrong.append(f"left behind: {', '.join(f'{name} {value:g}' for name, value in result['left'].items())}")
    return wrong


def summary(result: dict[str, Any]) -> str:
    memory_mb, grown = [sample["memory_mb"] for sample in result["samples"]], result["growth"]
    wrong = "; ".join(verdict(result))
    counts = ", ".join(f"{count:,} {name}" for name, count in result["done"].items())
    return (
        f"{result['seconds']:.0f} s over two workers: {counts} ({result['date']}, the commit of "
        f"{result['commit_date']}); every request whose client stayed was answered in full. Memory (PSS) at most "
        f"{max(memory_mb):.0f} MB; median of the last quarter over that of the second: memory {grown['memory']:.3f}, "
        f"descriptors {grown['descriptors']:.3f}, wanted ≤ {GROWTH:g}; afterwards no row, stream, generation, task or "
        f"descriptor was to be left: {f'**missed**, {wrong}' if wrong else 'met'}."
    )


def run(data: Path, seconds: float) -> dict[str, Any]:
    """Soak a service of its own; return the raw result."""
    with tempfile.TemporaryDirectory() as scratch, baton(COMMITTED, Path(scratch), **SETTINGS) as service:
        soak = Soak(service, Shapes(data, seed=0), seed=0)
        before = soak.sample()
        try:
            samples = asyncio.run(soak.run(seconds))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        left = left_behind(service, soak, before)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit_date": requirements.commit_date(),
        "seconds": seconds,
        "done": dict(soak.done),
        "growth": {
            "memory": growth([sample.memory_mb for sample in samples]),
            "descriptors": growth([sample.descriptors for sample in samples]),
        },
        "left": left,
        "samples": [asdict(sample) for sample in samples],
    }


def write(result: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result) + "\n")
    samples = result["samples"]
    plot_memory([sample["memory_mb"] for sample in samples], [sample["requests"] for sample in samples], PLOT)
    report.write_between(PAGE, "soak", summary(result))


def main(
    seconds: Annotated[float, typer.Option(min=4, help="How long; shorter than the default, only print.")] = SECONDS,
) -> None:
    """Send requests of random shapes; end with status 1 when one fails, when memory grows or something is left."""
    try:
        result = run(requirements.data_dir(), seconds)
        if seconds >= SECONDS:
            write(result)
        print(summary(result))
        if wrong := verdict(result):
            raise BenchError("; ".join(wrong))
    except BenchError as failure:
        sys.exit(f"soak: {failure}")


if __name__ == "__main__":
    typer.run(main)
