"""`make soak`: does memory stay where it is under requests of every shape?

Random requests from a fixed seed, from a few clients at once, over the committed models: 1 to 64 items each, of random
lengths; texts, series, and sessions that go on from their tokens. It knows requests and memory, not speed.
Invariant: every request was answered in full, or the soak fails.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from loadtests import report, requirements
from loadtests.models import COMMITTED
from loadtests.payloads import HORIZON, read_series, read_texts
from loadtests.plots import plot_memory
from loadtests.requirements import BenchError
from loadtests.serving import Running, baton, pss_mb
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "soak.json"
PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = ROOT / "docs" / "benchmarks-soak.svg"
REQUESTS, CLIENTS, SAMPLES = 20_000, 8, 200
MAX_ITEMS, MAX_WORDS, MAX_STEPS = 64, 200, 64
SERIES_LENGTHS = (8, 512)  # what the committed model needs and reads
SESSIONS = 512  # the newest of each model, that later requests go on from
GROWTH = 1.05
Request = tuple[str, dict[str, Any]]


class Shapes:
    """An endless source of requests; answers to steps are given back to `keep`, so that later steps go on from them."""

    def __init__(self, data: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = " ".join(read_texts(data)).split()
        self._series = read_series(data)
        self._tokens: dict[str, deque[str]] = {
            name: deque(maxlen=SESSIONS) for name in ("forecast-live", "sentiment-live")
        }

    def draw(self) -> Request:
        kinds: tuple[Callable[[int], Request], ...] = (self._texts, self._forecast, self._numbers, self._words_in_steps)
        return kinds[self._rng.integers(len(kinds))](self._skewed(1, MAX_ITEMS))

    def keep(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        if "items" in body:
            self._tokens[body["model"]].extend(result["state"] for result in answer["results"])

    def _skewed(self, least: int, most: int) -> int:
        """Draw from `least` to `most`, every factor of two as likely as any other."""
        return int(np.exp(self._rng.uniform(np.log(least), np.log(most + 1))))

    def _text(self, max_words: int) -> str:
        length = self._skewed(1, max_words)
        start = self._rng.integers(len(self._words) - length)
        return " ".join(self._words[start : start + length])

    def _texts(self, items: int) -> Request:
        return "/v1/sentiment", {"inputs": [self._text(MAX_WORDS) for _ in range(items)]}

    def _forecast(self, items: int) -> Request:
        series = [{"values": self._history(*SERIES_LENGTHS)} for _ in range(items)]
        return "/v1/forecast", {"series": series, "horizon": HORIZON}

    def _history(self, least: int, most: int) -> list[float]:
        whole = self._series[self._rng.integers(len(self._series))]
        return whole[-self._skewed(least, most) :]

    def _numbers(self, items: int) -> Request:
        steps = [{"values": self._history(1, MAX_STEPS)} for _ in range(items)]
        return "/v1/step", {"model": "forecast-live", "items": self._resumed("forecast-live", steps)}

    def _words_in_steps(self, items: int) -> Request:
        steps = [{"text": self._text(MAX_STEPS)} for _ in range(items)]
        return "/v1/step", {"model": "sentiment-live", "items": self._resumed("sentiment-live", steps)}

    def _resumed(self, model: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let about half of the items go on from a session, if there is one."""
        tokens = self._tokens[model]
        return [
            {**item, "state": tokens[self._rng.integers(len(tokens))]} if tokens and self._rng.random() < 0.5 else item
            for item in items
        ]


async def soak(service: Running, shapes: Shapes, requests: int) -> list[tuple[int, float]]:
    """Send so many requests and return the memory of the service in MB after each of `SAMPLES` equal parts of them.

    Raises: BenchError for a request that was not answered in full.
    """
    numbers, samples = iter(range(1, requests + 1)), []
    every = max(1, requests // SAMPLES)

    async def client(numbers: Iterator[int], http: httpx.AsyncClient) -> None:
        for number in numbers:
            path, body = shapes.draw()
            answer = await http.post(path, json=body)
            if answer.status_code != httpx.codes.OK or answer.json()["summary"]["failed"]:
                raise BenchError(f"request {number} to {path} was answered {answer.status_code}: {answer.text[:1000]}")
            shapes.keep(body, answer.json())
            if number % every == 0:
                samples.append((number, pss_mb(service.pid)))

    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http, asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client(numbers, http))
    return samples


def growth(memory_mb: Sequence[float]) -> float:
    """Return the median of the last quarter over that of the second. Shapes: memory_mb, at least four samples."""
    quarter = len(memory_mb) // 4
    return statistics.median(memory_mb[-quarter:]) / statistics.median(memory_mb[quarter : 2 * quarter])


def summary(result: dict[str, Any]) -> str:
    memory_mb, grown = [mb for _, mb in result["samples"]], result["growth"]
    verdict = "met" if grown <= GROWTH else "**missed**"
    return (
        f"{result['requests']:,} requests of random shapes in {result['seconds']:.0f} s, all answered "
        f"({result['date']}, the commit of {result['commit_date']}). Memory (PSS) at most {max(memory_mb):.0f} MB; "
        f"median of the last quarter over that of the second {grown:.3f}, wanted ≤ {GROWTH:g}: {verdict}."
    )


def run(data: Path, requests: int) -> dict[str, Any]:
    """Soak a service of its own; return the raw result."""
    with tempfile.TemporaryDirectory() as scratch, baton(COMMITTED, Path(scratch)) as service:
        started = time.perf_counter()
        try:
            samples = asyncio.run(soak(service, Shapes(data, seed=0), requests))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit_date": requirements.commit_date(),
        "requests": requests,
        "seconds": time.perf_counter() - started,
        "growth": growth([mb for _, mb in samples]),
        "samples": samples,
    }


def write(result: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result) + "\n")
    numbers, memory_mb = zip(*result["samples"], strict=True)
    plot_memory(memory_mb, numbers, PLOT)
    report.write_between(PAGE, "soak", summary(result))


def main(
    requests: Annotated[int, typer.Option(min=4, help="How many; with fewer than the default, only print.")] = REQUESTS,
) -> None:
    """Send requests of random shapes; end with status 1 when one fails or memory grows."""
    try:
        result = run(requirements.data_dir(), requests)
        if requests >= REQUESTS:
            write(result)
        print(summary(result))
        if result["growth"] > GROWTH:
            raise BenchError(f"memory grew: the last quarter has {result['growth']:.3f} of the second")
    except BenchError as failure:
        sys.exit(f"soak: {failure}")


if __name__ == "__main__":
    typer.run(main)
