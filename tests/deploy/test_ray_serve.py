"""The application on Ray Serve: the answers of a service, and sessions that outlive the replicas that they are at."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import ROOT, START_LIMIT_S, TOKEN_KEYS, Server, free_port

from baton_client import NEW, ApiError, AsyncClient, StepResult
from loadtests.ray_cluster import ENVIRONMENT, Cluster, ray_cluster

SESSIONS, STEPS, TRIES, CLOSE = 100, 25, 5, 1e-4
SERVE = "from ray.serve.scripts import cli; cli()"


@dataclass(frozen=True)
class Served:
    """Replicas on a cluster, behind the proxy at `url`."""

    url: str
    cluster: Cluster


@pytest.fixture(scope="module")
def served(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two replicas on a cluster of the tests' own; give them."""
    folder, port = tmp_path_factory.mktemp("ray-serve"), free_port()
    own = {"BATON_MODELS_DIR": str(tiny_models), "BATON_STATE_DIR": str(folder), "BATON_TOKEN_KEYS": TOKEN_KEYS}
    with ray_cluster(4) as cluster, (folder / "log").open("w") as log:
        environment = os.environ | ENVIRONMENT | own | {"RAY_ADDRESS": cluster.address}
        scale = ("min_replicas=2", "max_replicas=2")
        for options in (["start", "--http-port", str(port)], ["run", "service.ray:app", *scale, "--non-blocking"]):
            command = [sys.executable, "-c", SERVE, *options]
            subprocess.run(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, timeout=START_LIMIT_S, check=True
            )
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_LIMIT_S
        while not _ready(url):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield Served(url, cluster)


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
    rows = np.random.default_rng(3).normal(size=(SESSIONS, STEPS, 2)).astype(np.float32)
    found = asyncio.run(_take_steps(served, rows))
    items = [{"inputs": session.tolist()} for session in rows]
    body = {"model": "stepper", "items": items, "return": "all"}
    whole = httpx.post(f"{server.url}/v1/step", json=body, timeout=120).json()["results"]
    for session, one in zip(found, whole, strict=True):
        np.testing.assert_allclose(session, one["outputs"]["y"], atol=CLOSE)


async def _take_steps(served: Served, rows: np.ndarray) -> np.ndarray:
    """Take all steps of all sessions, a step a call; meanwhile a replica is killed."""
    taken = 0

    async def session(steps: np.ndarray) -> list[object]:
        nonlocal taken
        state, outputs = NEW, []
        for step in steps:
            made = await _step(client, step, state)
            outputs.append(made.outputs["y"])
            state, taken = made.state, taken + 1
        return outputs

    async with AsyncClient(served.url, timeout=120) as client:
        going = asyncio.gather(*(session(steps) for steps in rows))
        while taken < SESSIONS * STEPS // 3:
            await asyncio.sleep(0.01)
            assert not going.done()
        one, _ = served.cluster.processes("ServeReplica")
        one.kill()
        return np.array(await going)


async def _step(client: AsyncClient, step: np.ndarray, state: Any) -> StepResult:
    """Take a step, again where the proxy of Ray answers for a replica that died with the call."""
    for _ in range(TRIES):
        try:
            return await client.step("stepper", [step.tolist()], state=state)
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
