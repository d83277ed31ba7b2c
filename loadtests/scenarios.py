"""What `make bench` measures: each scenario by its name, from a running service to raw numbers.

It knows loads, floors and their order, not how they are shown. A floor and the service are measured in turn, round by
round, so that a machine that slows down slows both; what is reported later is the median of the rounds' ratios. An
open-loop scenario measures its own peak, right before.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from loadtests import payloads
from loadtests.closedloop import batching, load_service, run_wrk
from loadtests.floors import (
    CipherLimit,
    Limit,
    RaggedLimit,
    RunLimit,
    StepLimit,
    TokenLimit,
    forecast_limit,
    rate,
    sentiment_limit,
)
from loadtests.models import COMMITTED, FEATURES, STEP_MODEL, newest
from loadtests.payloads import Pool
from loadtests.requirements import BenchError
from loadtests.serving import CoresWatch, Running, baseline, baton, metrics, resident_mb
from loadtests.streams import FrameLoad
from service.launch import ROOT

ROUNDS, SECONDS, WARM_S = 5, 3.0, 1.0
PEAK_CONNECTIONS, PEAK_S = 64, 4.0
STREAMS = 32
TOKENS_S, TOKEN_STATE_BYTES = 0.5, 4096
STEADY_ROUNDS, STEADY_S, STEADY_LOAD = 3, 10.0, 0.7
OVERLOAD_S, OVERLOAD = 20.0, 3.0
SWEEP_S, SWEEP = 4.0, (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
STARTS = 5
COMPARED_ANSWERS = 16
SAME_SCORE = 1e-4  # a batch rounds differently from a single row

Floor = Callable[[], float]
Raw = dict[str, Any]


@dataclass
class Bench:
    """What scenarios work with: a service over the committed models and the LSTM 2x256, real data, a scratch folder."""

    service: Running
    models: Path
    data: Path
    folder: Path

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
        pool, before, resident = self.texts, metrics(self.service.url), [resident_mb(self.service.pid)]
        command = [sys.executable, "-m", "loadtests.openloop", f"{self.service.url}{pool.path}"]
        command += ["--rate", str(requests_per_s), "--seconds", str(seconds)]
        command += ["--payloads", str(pool.file), "--seed", str(seed)]
        watch = CoresWatch(self.service)
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        while process.poll() is None:
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                resident.append(resident_mb(self.service.pid))
        printed, _ = process.communicate()
        if process.returncode:
            raise BenchError("the open-loop generator failed")
        runs = batching(before, metrics(self.service.url))
        resident = resident[: math.ceil(seconds) + 1]
        more = {"cores": asdict(watch.used()), "batching": asdict(runs), "resident_mb": resident}
        return {**json.loads(printed), **more}


def baseline_floor(server: Running, pool: Pool, connections: int) -> Floor:
    """Return a floor: items per second of a baseline under the same load. It raises BenchError for any error answer."""

    def measured(seconds: float = SECONDS) -> float:
        load = run_wrk(server, pool, connections=connections, seconds=seconds)
        if load.errors:
            raise BenchError(f"a baseline answered {load.errors} requests with an error, so it is no floor")
        return load.items_per_s

    measured(WARM_S)
    return measured


def limit_floor(limit: Limit) -> Floor:
    return lambda: rate(limit, SECONDS)


def described(limit: RaggedLimit) -> Raw:
    return {"batch": limit.batch, "trials": limit.trials, "padding": limit.padding}


def start(bench: Bench) -> Raw:
    """Time to readiness and resident memory, of the committed models alone."""
    times, ready_mb, used_mb = [], [], []
    calls = [
        (bench.texts.path, bench.texts.bodies[0]),
        ("/v1/forecast", json.dumps({"series": [{"values": list(range(64))}], "horizon": 13}).encode()),
        ("/v1/step", json.dumps({"model": "forecast-live", "items": [{"values": [1.0]}]}).encode()),
        ("/v1/step", json.dumps({"model": "sentiment-live", "items": [{"text": "a good film"}]}).encode()),
    ]
    for _ in range(STARTS):
        with baton(COMMITTED, bench.folder) as service:
            times.append(service.ready_s)
            ready_mb.append(resident_mb(service.pid))
            for path, body in calls:
                ask(service, path, body)
            used_mb.append(resident_mb(service.pid))
    return {"ready_s": times, "resident_ready_mb": ready_mb, "resident_used_mb": used_mb}


def sentiment_1(bench: Bench) -> Raw:
    limit = sentiment_limit(newest("sentiment"), bench.texts.content)
    with baseline("plain", bench.folder) as plain:
        compare_answers(bench.service, plain, bench.texts)
        floors = {"in_process": limit_floor(limit), "plain": baseline_floor(plain, bench.texts, PEAK_CONNECTIONS)}
        raw = bench.measure(bench.texts, PEAK_CONNECTIONS, floors)
    return {**raw, "limit": described(limit)}


def sentiment_32(bench: Bench) -> Raw:
    pool = payloads.many_texts(bench.folder, bench.data)
    limit = sentiment_limit(newest("sentiment"), pool.content)
    return {**bench.measure(pool, 8, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def forecast_16(bench: Bench) -> Raw:
    pool = payloads.many_series(bench.folder, bench.data)
    limit = forecast_limit(newest("forecast"), [series["values"] for series in pool.content])
    return {**bench.measure(pool, 8, {"in_process": limit_floor(limit)}), "limit": described(limit)}


def step_1(bench: Bench) -> Raw:
    pool = payloads.sessions(bench.folder, bench.service.url, 1)
    with baseline("echo", bench.folder) as echo:
        body = json.loads(pool.bodies[0])
        if ask(echo, pool.path, pool.bodies[0]) != body:
            raise BenchError("the echo does not answer with what it was sent")
        return bench.measure(pool, 32, {"echo": baseline_floor(echo, pool, 32)})


def step_16(bench: Bench) -> Raw:
    pool = payloads.sessions(bench.folder, bench.service.url, payloads.SESSIONS_PER_REQUEST)
    steps = [item["inputs"] for item in pool.content]
    limit = StepLimit(newest(STEP_MODEL, bench.models), steps, payloads.SESSIONS_PER_REQUEST)
    return bench.measure(pool, 8, {"in_process": limit_floor(limit)})


def tokens(bench: Bench) -> Raw:
    """Seal and open a state of 4 KiB, beside the cipher alone."""
    sealing, cipher = TokenLimit(TOKEN_STATE_BYTES), CipherLimit(TOKEN_STATE_BYTES)
    rounds = []
    for _ in range(ROUNDS):
        floor_per_s, sealed_per_s = (rate(limit, TOKENS_S) for limit in (cipher, sealing))
        rounds.append({"cipher_us": 1e6 / floor_per_s, "seal_and_open_us": 1e6 / sealed_per_s})
    return {"rounds": rounds}


def stream_1(bench: Bench) -> Raw:
    """One step a frame, beside a WebSocket that sends the same frames back."""
    load = FrameLoad.write(bench.folder, steps=1)
    with baseline("wsecho", bench.folder) as echo:

        def echoed() -> float:
            found = load.run(echo, STREAMS, SECONDS, answer_values=FEATURES)
            if found.errors:
                raise BenchError(f"the echo gave {found.errors} wrong answers, so it is no floor")
            return found.requests_per_s

        return bench.measure_streams(load, {"echo": echoed})


def stream_1_workers(bench: Bench) -> Raw:
    """One step a frame, of a service with two workers."""
    with baton(bench.models, bench.folder, BATON_WORKERS="2") as service:
        return stream_1(replace(bench, service=service))


def stream_64(bench: Bench) -> Raw:
    """Many steps a frame, beside the model run on the same frames in batches like those that the service formed."""
    load = FrameLoad.write(bench.folder, steps=64)
    _, runs = load.stream(bench.service, STREAMS, WARM_S)
    batch = max(1, round(runs.batch_rows))
    limit = RunLimit(newest(STEP_MODEL, bench.models), np.load(load.file), batch)
    return {**bench.measure_streams(load, {"session_run": limit_floor(limit)}), "limit": {"batch": batch}}


def steady(bench: Bench) -> Raw:
    """Open loop below the peak: are answers as quick as they can be?"""
    rounds = []
    for number in range(STEADY_ROUNDS):
        peak = bench.peak()
        rounds.append({"peak_per_s": peak, **bench.open_loop(STEADY_LOAD * peak, STEADY_S, seed=number)})
    return {"of_peak": STEADY_LOAD, "rounds": rounds}


def overload(bench: Bench) -> Raw:
    """Open loop far above the peak, which is measured before and after."""
    before = bench.peak()
    outcome = bench.open_loop(OVERLOAD * before, OVERLOAD_S)
    return {"of_peak": OVERLOAD, "peaks_per_s": [before, bench.peak()], **outcome}


def sweep(bench: Bench) -> Raw:
    """Open loop from little to far too much, for the plots."""
    peak = bench.peak()
    return {"peak_per_s": peak, "points": [{"of_peak": f, **bench.open_loop(f * peak, SWEEP_S)} for f in SWEEP]}


SCENARIOS: dict[str, Callable[[Bench], Raw]] = {
    "start": start,
    "sentiment-1": sentiment_1,
    "sentiment-32": sentiment_32,
    "step-1": step_1,
    "step-16": step_16,
    "tokens": tokens,
    "forecast-16": forecast_16,
    "stream-1": stream_1,
    "stream-1-workers": stream_1_workers,
    "stream-64": stream_64,
    "steady": steady,
    "overload": overload,
    "sweep": sweep,
}


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
