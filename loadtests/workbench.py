"""What scenarios work with: the service under test, its loads, and the floors that are measured in turn with it.

It knows rounds and their order, not what is compared with what. Invariant: a floor and the service are measured in
turn, round by round, so that a machine that slows down slows both.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtests import payloads
from loadtests.closedloop import batching, load_service, run_wrk
from loadtests.models import GRAPH_FILE
from loadtests.payloads import Pool
from loadtests.peers.apps.reader import Reader
from loadtests.requirements import BenchError
from loadtests.serving import CoresWatch, Running, metrics, pss_mb
from loadtests.streams import FrameLoad
from loadtests.together import Team
from service.launch import ROOT

ROUNDS, SECONDS, WARM_S = 4, 2.0, 1.0  # wrk knows whole seconds alone
PEAK_CONNECTIONS, PEAK_S = 64, 3.0
STREAMS = 32
COMPARED_ANSWERS = 16
SAME_SCORE = 1e-4  # a batch rounds differently from a single row

Floor = Callable[[], float]
Raw = dict[str, Any]


@dataclass
class Bench:
    """A service over the committed models and the references, real data, this process's cores, a scratch folder."""

    service: Running
    models: Path
    data: Path
    folder: Path
    cores: int

    @cached_property
    def texts(self) -> Pool:
        return payloads.single_texts(self.folder, self.data)

    def measure(self, pool: Pool, connections: int, floors: dict[str, Floor]) -> Raw:
        """Return `ROUNDS` rounds: each floor's items per second, then the service under load."""
        load_service(self.service, pool, connections=connections, seconds=WARM_S)
        rounds = []
        for _ in range(ROUNDS):
            found = {name: floor() for name, floor in floors.items()}
            load, runs = load_service(self.service, pool, connections=connections, seconds=SECONDS)
            rounds.append({"floors": found, "load": asdict(load), "batching": asdict(runs)})
        return {"connections": connections, "items_per_request": pool.items, "rounds": rounds}

    def measure_streams(self, load: FrameLoad, floors: dict[str, Floor]) -> Raw:
        """Return rounds as `measure` does, of frames over `STREAMS` connections."""
        load.stream(self.service, STREAMS, WARM_S)
        rounds = []
        for _ in range(ROUNDS):
            found = {name: floor() for name, floor in floors.items()}
            seen, runs = load.stream(self.service, STREAMS, SECONDS)
            rounds.append({"floors": found, "load": asdict(seen), "batching": asdict(runs)})
        return {"connections": STREAMS, "items_per_request": load.steps, "rounds": rounds}

    def peak(self) -> float:
        """Return the requests per second of one text each that the service answers in a closed loop."""
        return run_wrk(self.service, self.texts, connections=PEAK_CONNECTIONS, seconds=PEAK_S).requests_per_s

    def open_loop(self, requests_per_s: float, seconds: float, seed: int = 0) -> Raw:
        """Return the outcome of arrivals at that rate, the service's runs, and its memory second by second."""
        pool, before, memory = self.texts, metrics(self.service.url), [pss_mb(self.service.pid)]
        command = [sys.executable, "-m", "loadtests.openloop", f"{self.service.url}{pool.path}"]
        command += ["--rate", str(requests_per_s), "--seconds", str(seconds)]
        command += ["--payloads", str(pool.file), "--seed", str(seed)]
        watch = CoresWatch(self.service)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                memory.append(pss_mb(self.service.pid))
        printed, _ = process.communicate()
        if process.returncode:
            raise BenchError("the open-loop generator failed")
        runs = batching(before, metrics(self.service.url))
        memory = memory[: math.ceil(seconds) + 1]
        more = {"cores": asdict(watch.used()), "batching": asdict(runs), "pss_mb": memory}
        return {**json.loads(printed), **more}


def closed_floor(server: Running, pool: Pool, connections: int) -> Floor:
    """Return a floor: items per second of a server under this load. It raises BenchError for any error answer."""

    def measured(seconds: float = SECONDS) -> float:
        load = run_wrk(server, pool, connections=connections, seconds=seconds)
        if load.errors:
            raise BenchError(f"{pool.path} of a floor answered {load.errors} requests with an error, so it is no floor")
        return load.items_per_s

    measured(WARM_S)
    return measured


def limit_floor(limit: Team) -> Floor:
    return lambda: limit.rate(SECONDS)


def described(limit: Team) -> Raw:
    """Return the best batch of each process, and the padding of all."""
    facts = limit.facts
    return {"batches": [f["batch"] for f in facts], "padding": sum(f["padding"] for f in facts) / len(facts)}


def ask(server: Running, path: str, body: bytes) -> Any:
    """Return the answer to one request. Raises: httpx.HTTPStatusError."""
    headers = {"content-type": "application/json"}
    return httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=30).raise_for_status().json()


def compare_answers(service: Running, other: Running, pool: Pool) -> None:
    """Raises: BenchError when `other` labels or scores a text otherwise than the service does."""
    for body in pool.bodies[:COMPARED_ANSWERS]:
        (ours,), (theirs,) = (ask(server, pool.path, body)["results"] for server in (service, other))
        if ours["label"] != theirs["label"] or abs(ours["score"] - theirs["score"]) > SAME_SCORE:
            raise BenchError(f"the plain handler answers {theirs} where the service answers {ours}")


def check_scores(service: Running, pool: Pool, model: Path) -> None:
    """Raises: BenchError where the scores behind the first answer are not those that the graph gives for its rows."""
    headers = {"Inference-Header-Content-Length": str(pool.head_bytes)}
    answer = httpx.post(f"{service.url}{pool.path}", content=pool.bodies[0], headers=headers, timeout=30)
    head = int(answer.raise_for_status().headers["Inference-Header-Content-Length"])
    got = np.frombuffer(answer.content[head:], "<f4")
    right = Reader(model / GRAPH_FILE, threads=1).read(pool.content[: pool.items]).ravel()
    if got.shape != right.shape or not np.abs(got - right).max() < SAME_SCORE:
        raise BenchError(f"{pool.path} does not answer what the graph gives")
