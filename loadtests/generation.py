"""`make bench-generate`: what generation costs beside a loop over ONNX Runtime, how soon its streams begin and end.

`charlm` writes, served alone: with default settings, and beside the loop, which has one thread, by one worker. It knows
rounds and tables, not how ids are drawn. Writes `loadtests/results/generation.json` and a table of docs/benchmarks.md.
Invariant: each request drew as many characters as it was to, or there is no figure.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import typer

from loadtests.bench import publish
from loadtests.figures import Figure, workers
from loadtests.floors import Limit, open_session
from loadtests.models import COMMITTED, newest
from loadtests.report import FIGURES_HEAD
from loadtests.requirements import BenchError
from loadtests.serving import CoresWatch, Running, baton, metrics
from service.launch import ROOT

RESULTS = ROOT / "loadtests" / "results" / "generation.json"
PAGE = ROOT / "docs" / "benchmarks.md"
MODEL, PROMPT = "charlm", "ROMEO:\n"
CHARACTERS, TOGETHER, ALONE = 200, 32, 4
ROUNDS, FIRST_EVENTS, MANY = 5, 200, 4000
GONE_S, LATER_S = 0.05, 0.5
RUNS = "baton_batch_rows_count"
Raw = dict[str, Any]


@dataclass(frozen=True)
class Round:
    """What a round gave: characters a second of each way, and the cores that all else on the machine used.

    Units: `server_us` is what one worker took for a character, of processor time.
    """

    alone: float
    together: float
    one_worker: float
    loop: float
    other_cores: float
    server_us: float


class Writing(Limit):
    """A loop over ONNX Runtime alone: `TOGETHER` texts, each character drawn by its probabilities and fed back."""

    def __init__(self, directory: Path) -> None:
        manifest = json.loads((directory / "manifest.json").read_text())
        self._session, self._states = open_session(directory / manifest["file"]), manifest["states"]
        self._names = [manifest["outputs"][0]["name"], *(state["output"] for state in self._states)]
        self._rng = np.random.default_rng(0)
        self._feeds: dict[str, Any] = {"ids": np.zeros((TOGETHER, 1), manifest["inputs"][0]["dtype"])}
        self._feeds[manifest["lengths"]] = np.ones(TOGETHER, np.int32)
        for state in self._states:
            shape = [TOGETHER if size == "batch" else size for size in state["shape"]]
            self._feeds[state["input"]] = np.zeros(shape, state["dtype"])

    def advance(self) -> int:
        made, *carried = self._session.run(self._names, self._feeds)
        bounds = made[:, 0].cumsum(axis=1)
        passed = bounds <= self._rng.random((TOGETHER, 1)) * bounds[:, -1:]
        ids = passed.sum(axis=1, keepdims=True).clip(max=bounds.shape[1] - 1)
        self._feeds["ids"] = ids.astype(self._feeds["ids"].dtype)
        self._feeds |= {state["input"]: tensor for state, tensor in zip(self._states, carried, strict=True)}
        return TOGETHER


class Client:
    """A connection to a service."""

    def __init__(self, service: Running) -> None:
        where = urlsplit(service.url)
        self._connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, seed: int) -> None:
        """Have a text written. Raises: BenchError when it has not the length that it should."""
        answer = self._ask({"seed": seed, "max_steps": CHARACTERS})
        content = json.loads(answer.read())
        if answer.status != 200 or len(content["results"][0]["choices"][0]["text"]) != CHARACTERS:
            raise BenchError(f"{answer.status}: {str(content)[:400]}")

    def first_event_s(self, seed: int) -> float:
        """Return how long the first event of a stream takes."""
        started = time.perf_counter()
        answer = self._ask({"seed": seed, "max_steps": 8, "stream": True})
        answer.readline()
        took = time.perf_counter() - started
        answer.read()
        return took

    def begin(self, seed: int) -> None:
        """Begin a long stream, and read its first event."""
        self._ask({"seed": seed, "max_steps": MANY, "stream": True}).readline()

    def close(self) -> None:
        self._connection.close()

    def _ask(self, options: Raw) -> Any:
        body = json.dumps({"model": MODEL, "items": [{"prompt": PROMPT}], **options})
        self._connection.request("POST", "/v1/generate", body, {"content-type": "application/json"})
        return self._connection.getresponse()


def characters_per_s(write: Callable[[int], None], texts: int, at_once: int) -> float:
    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        list(pool.map(write, range(texts)))
        return texts * CHARACTERS / (time.perf_counter() - started)


def measure_round(service: list[Client], alone: list[Client], worker: Running, loop: Writing) -> Round:
    """Measure with the connections of the service with default settings, and of that with one `worker`."""

    def write(clients: list[Client], number: int) -> None:
        clients[number].write(number)

    singly = characters_per_s(partial(write, service), ALONE, 1)
    together = characters_per_s(partial(write, service), TOGETHER, TOGETHER)
    watch = CoresWatch(worker)
    one_worker = characters_per_s(partial(write, alone), TOGETHER, TOGETHER)
    used = watch.used()
    started = time.perf_counter()
    looped = sum(loop.advance() for _ in range(CHARACTERS)) / (time.perf_counter() - started)
    return Round(singly, together, one_worker, looped, used.other, 1e6 * used.server_s / (TOGETHER * CHARACTERS))


def runs_after_leaving(service: Running) -> float:
    """Return how many runs are made for streams whose clients left, from `GONE_S` after that on."""
    with ExitStack() as streams:
        for number in range(TOGETHER):
            client = Client(service)
            streams.callback(client.close)
            client.begin(number)
    time.sleep(GONE_S)
    before = metrics(service.url)[RUNS]
    time.sleep(LATER_S)
    return metrics(service.url)[RUNS] - before


def measure(folder: Path) -> Raw:
    models = folder / "models"
    models.mkdir()
    (models / MODEL).symlink_to(COMMITTED / MODEL)
    with ExitStack() as open_now:
        service = open_now.enter_context(baton(models, folder))
        worker = open_now.enter_context(baton(models, folder, BATON_WORKERS="1"))
        clients = {one: [Client(one) for _ in range(TOGETHER)] for one in (service, worker)}
        for client in (*clients[service], *clients[worker]):
            open_now.callback(client.close)
        sides = clients[service], clients[worker], worker, Writing(newest(MODEL, models))
        measure_round(*sides)  # which warms all of them
        rounds = [asdict(measure_round(*sides)) for _ in range(ROUNDS)]
        first_ms = [1e3 * clients[service][0].first_event_s(number) for number in range(FIRST_EVENTS)]
        left = runs_after_leaving(service)
    return {"workers": service.workers, "rounds": rounds, "first_event_ms": first_ms, "runs_after_leaving": left}


def table(result: Raw) -> str:
    """Return the figures as the page shows them."""
    rounds, machine = result["rounds"], result["machine"]

    def of(name: str) -> float:
        return float(statistics.median(each[name] for each in rounds))

    def ratio(name: str, floor: str) -> float:
        return float(statistics.median(each[name] / each[floor] for each in rounds))

    def rate(name: str) -> str:
        return f"{of(name):,.0f} characters/s"

    p95 = float(np.percentile(result["first_event_ms"], 95))
    left = result["runs_after_leaving"]
    texts = f"{TOGETHER} texts of {CHARACTERS} characters at once"
    looped = f"the same by one worker, over a loop of `session.run` on {TOGETHER} rows"
    figures = [
        Figure(f"{texts}, over one after the other", rate("together"), ratio("together", "alone"), rate("alone"), 6),
        Figure(looped, rate("one_worker"), ratio("one_worker", "loop"), rate("loop"), 0.5),
        Figure("first event of a stream, service idle, p95", f"{p95:.1f} ms", p95, at_most=15, unit=" ms"),
        Figure(
            f"runs for {TOGETHER} streams, from {GONE_S * 1e3:.0f} ms after they were left",
            f"{left:.0f}",
            left,
            at_most=0,
        ),
    ]
    about = (
        f"Measured on {result['date']} at the commit of {result['commit_date']}: {machine['cores']} cores, "
        f"{machine['processor']}; `{MODEL}` alone, served by {workers(result['workers'])}, which share the machine "
        f"with their clients and with other processes that took {of('other_cores'):.2f} cores meanwhile; medians of "
        f"{ROUNDS} rounds. One worker took {of('server_us'):.0f} us of processor time a character, the model's runs "
        "included."
    )
    head = [about, "", FIGURES_HEAD, "|" + (FIGURES_HEAD.count("|") - 1) * "---|"]
    return "\n".join([*head, *(figure.row() for figure in figures)])


def main() -> None:
    """Measure, and write the figures and the page's table."""
    publish("generation", measure, table, RESULTS, PAGE)


if __name__ == "__main__":
    typer.run(main)
