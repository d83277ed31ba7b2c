"""The application on Ray Serve: the answers of a service, and sessions that outlive the replicas that they are at."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import ROOT, START_LIMIT_S, TOKEN_KEYS, RedisServer, Server, free_port

from baton_client import NEW, ApiError, AsyncClient, StepResult
from loadtests.ray_cluster import ENVIRONMENT, Cluster, ray_cluster

SESSIONS, STEPS, TRIES, CLOSE = 100, 25, 5, 1e-4
SERVE = "from ray.serve.scripts import cli; cli()"
RUN = ("run", "service.ray:app", "--non-blocking")


@dataclass(frozen=True)
class Served:
    """Replicas on a cluster, behind the proxy at `url`; what is run by `serve` has `settings`, and writes to `log`."""

    url: str
    cluster: Cluster
    settings: dict[str, str]
    log: Path

    def run(self, *options: str, **settings: str) -> None:
        """Run a command of Ray Serve."""
        environment = os.environ | ENVIRONMENT | self.settings | settings | {"RAY_ADDRESS": self.cluster.address}
        with self.log.open("a") as log:
            command = [sys.executable, "-c", SERVE, *options]
            subprocess.run(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, timeout=START_LIMIT_S, check=True
            )

    @property
    def replicas(self) -> set[int]:
        """The numbers of the replicas' processes."""
        return {process.pid for process in self.cluster.processes("ServeReplica")}


@pytest.fixture(scope="module")
def served(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer) -> Iterator[Served]:
    """Two replicas on a cluster of the tests' own that hold states in a Redis; give them."""
    folder, port = tmp_path_factory.mktemp("ray-serve"), free_port()
    own = {"BATON_MODELS_DIR": str(tiny_models), "BATON_STATE_DIR": str(folder), "BATON_TOKEN_KEYS": TOKEN_KEYS}
    with ray_cluster(5) as cluster:
        url = f"http://127.0.0.1:{port}"
        made = Served(url, cluster, {**own, "BATON_STORE": shared_redis.url}, folder / "log")
        made.run("start", "--http-port", str(port))
        made.run(*RUN, "min_replicas=2", "max_replicas=2")
        deadline = time.monotonic() + START_LIMIT_S
        while not _ready(url):
            assert time.monotonic() < deadline, made.log.read_text()
            time.sleep(0.1)
        yield made


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.cluster
def test_calls_are_answered_as_by_a_service(served: Served, server: Server) -> None:
    body = {"inputs": ["good film", "a bad one", ""], "scores": "all"}
    one, other = (httpx.post(f"{url}/v1/sentiment", json=body, timeout=60).json() for url in (served.url, server.url))
    assert one["results"] == other["results"]
    assert one["model"] == other["model"]
    wrong = httpx.post(f"{served.url}/v1/sentiment", json={"texts": ["a"]}, timeout=60)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "invalid_request")
    assert httpx.get(f"{served.url}/v1/nothing", timeout=60).status_code == 404


@pytest.mark.cluster
def test_no_session_is_lost_when_a_replica_is_killed(served: Served, server: Server) -> None:
    """Neither of those that clients carry nor of those that are held in Redis."""

    def kill(replicas: set[int]) -> None:
        os.kill(min(replicas), signal.SIGKILL)

    check_sessions(served, server, kill)


@pytest.mark.cluster
def test_replicas_change_and_follow_the_load_and_no_session_is_lost(served: Served, server: Server) -> None:
    """An update takes the place of all replicas while sessions go on, which then are more than one replica may have."""

    def update(replicas: set[int]) -> None:
        scale = ("min_replicas=1", "max_replicas=3", "target_ongoing_requests=1")
        served.run(*RUN, *scale, BATON_LOG_LEVEL="warning")
        assert not replicas & served.replicas

    check_sessions(served, server, update, until=lambda: len(served.replicas) == 3)


def check_sessions(
    served: Served, server: Server, strike: Callable[[set[int]], None], until: Callable[[], bool] = lambda: True
) -> None:
    """Have sessions take their steps, a step a call, and meanwhile do something to the replicas.

    They begin again and again until what they wait for has come; each answer must be that of the steps in one run.
    """
    rows = np.random.default_rng(3).normal(size=(SESSIONS, STEPS, 2)).astype(np.float32)
    found = asyncio.run(_take_steps(served, rows, strike, until))
    items = [{"inputs": session.tolist()} for session in rows]
    body = {"model": "stepper", "items": items, "return": "all"}
    whole = httpx.post(f"{server.url}/v1/step", json=body, timeout=120).json()["results"]
    for session, one in zip(found, whole, strict=True):
        np.testing.assert_allclose(session, one["outputs"]["y"], atol=CLOSE)


async def _take_steps(
    served: Served, rows: np.ndarray, strike: Callable[[set[int]], None], until: Callable[[], bool]
) -> np.ndarray:
    """Take all steps of all sessions, of which every other one is held; return their outputs."""
    taken, under_way, deadline = 0, asyncio.Event(), time.monotonic() + START_LIMIT_S

    async def session(number: int) -> list[object]:
        nonlocal taken
        hold = {"hold": "server"} if number % 2 else {}
        while True:
            state, outputs = NEW, []
            for step in rows[number]:
                made = await _step(client, step, state, hold if state is NEW else {})
                outputs.append(made.outputs["y"])
                state, taken = made.state, taken + 1
                if taken == SESSIONS * STEPS // 3:
                    under_way.set()
            if struck.done() and await asyncio.to_thread(until):
                return outputs
            assert time.monotonic() < deadline

    async def strike_meanwhile() -> None:
        await under_way.wait()
        await asyncio.to_thread(strike, served.replicas)

    async with AsyncClient(served.url, timeout=120) as client:
        struck = asyncio.ensure_future(strike_meanwhile())
        found = np.array(await asyncio.gather(*(session(number) for number in range(len(rows)))))
        await struck
        return found


async def _step(client: AsyncClient, step: np.ndarray, state: Any, options: dict[str, str]) -> StepResult:
    """Take a step, again where the proxy of Ray answers for a replica that died with the call."""
    for _ in range(TRIES):
        try:
            return await client.step("stepper", [step.tolist()], state=state, **options)
        except ApiError as failure:
            if failure.code != "http_500":
                raise
    raise AssertionError("every replica dies")


def test_a_deployment_without_shared_keys_is_refused(tiny_models: Path) -> None:
    told = _refused("Scale()", BATON_MODELS_DIR=str(tiny_models))
    assert "replicas on Ray need BATON_TOKEN_KEYS" in told


def test_bounds_that_contradict_each_other_are_refused() -> None:
    assert "max_replicas=2 is below min_replicas=3" in _refused("Scale(min_replicas=3, max_replicas=2)")


def _refused(scale: str, **settings: str) -> str:
    """Return what a process says that makes the application, without a cluster, and fails."""
    ended = subprocess.run(
        [sys.executable, "-c", f"from service.ray import Scale, app; app({scale})"],
        env=os.environ | ENVIRONMENT | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_LIMIT_S,
        check=False,
    )
    assert ended.returncode
    return ended.stderr
