"""docker-compose.yml on a real engine, from nothing: balanced, scraped, and nothing is lost when replicas go."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from conftest import ANSWER_LIMIT_S, ROOT
from engine import docker, need_engine, run, wait_until

from baton_client import NEW, Client
from loadtests.traffic import Traffic
from service.contract.files import CHOICE_FILE

PROJECT = "baton-test"
PROXY, PROMETHEUS, LOCUST = (f"http://127.0.0.1:{port}" for port in (8000, 9090, 8089))
ROWS = (100 + 10 * np.sin(np.arange(3000) / 9)).reshape(-1, 1)
MODEL = "forecast-live"
VERSION = max(directory.name for directory in (ROOT / "models" / MODEL).iterdir() if directory.name.isdigit())
NEXT_VERSION = str(int(VERSION) + 1)
TEXTS = ("A warm, funny film.", "No point in it.")
MOUNTED = {
    "/etc/grafana/provisioning/datasources/prometheus.yml": "provisioning/datasources/prometheus.yml",
    "/etc/grafana/provisioning/dashboards/baton.yml": "provisioning/dashboards/baton.yml",
    "/var/lib/grafana/dashboards/baton.json": "baton.json",
}


class Stack:
    """All services of the file but locust, which a test starts; `environment` has the variables of the file."""

    def __init__(self) -> None:
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        self._compose = ("docker-compose",) if plugin.returncode else ("docker", "compose")
        self.environment = {"COMPOSE_PROJECT_NAME": PROJECT}
        self.images: list[str] = []

    def compose(self, *arguments: str) -> str:
        return run(*self._compose, *arguments, **self.environment)

    def build(self, name: str, folder: Path) -> str:
        """Make an image of a folder with a Dockerfile, which goes with the stack."""
        docker("build", "--tag", f"{PROJECT}:{name}", str(folder))
        self.images.append(f"{PROJECT}:{name}")
        return self.images[-1]

    def roll_out(self, image: str) -> None:
        self.environment["BATON_IMAGE"] = image
        run("make", "rollout", **self.environment)

    def replicas(self) -> list[str]:
        return self.compose("ps", "-q", "baton").split()

    def address(self, container: str) -> str:
        return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)

    def counted(self, container: str, series: str) -> float:
        """Return the sum of a replica's series that begin so."""
        script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
        lines = docker("exec", container, "python", "-c", script).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))

    def kill(self, container: str) -> None:
        """End a replica's main process as the kernel would that is out of memory, and wait for what the engine does."""
        os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)
        wait_until(lambda: docker("inspect", "--format", "{{.RestartCount}}", container) == "1", "it is started again")

    def recreate(self, container: str) -> None:
        """Put a new replica, at another address, in the place of one that is gone without a word."""
        left = self.address(container)
        docker("rm", "--force", container)
        network = f"--network={PROJECT}_default"
        tenant = docker("run", "--detach", "--rm", network, "--entrypoint=sleep", "baton", "infinity")
        try:
            assert self.address(tenant) == left
            self.compose("up", "--detach", "baton")
        finally:
            docker("rm", "--force", tenant)

    def wait_until_healthy(self, container: str) -> None:
        health = ("inspect", "--format", "{{.State.Health.Status}}", container)
        wait_until(lambda: docker(*health) == "healthy", f"{container} is healthy")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    need_engine()
    running = Stack()
    running.compose("--profile", "load", "down", "--volumes", "--remove-orphans")
    running.compose("--profile", "load", "build")
    running.compose("up", "--detach")
    yield running
    running.compose("--profile", "load", "down", "--volumes")
    for image in running.images:
        docker("image", "rm", image)


@pytest.mark.parametrize("service", ["baton", "proxy", "redis", "prometheus"])
def test_every_container_gets_healthy(service: str, stack: Stack) -> None:
    for container in stack.compose("ps", "-q", service).split():
        stack.wait_until_healthy(container)


def test_calls_of_one_connection_are_shared_by_both_replicas(stack: Stack) -> None:
    one, other = stack.replicas()
    series = 'baton_requests_total{endpoint="/v1/sentiment",status="200"}'
    before = [stack.counted(replica, series) for replica in (one, other)]
    with Client(PROXY) as client:
        for _ in range(20):
            client.sentiment(TEXTS)
    after = [stack.counted(replica, series) for replica in (one, other)]
    taken = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(taken) == 20
    assert min(taken) > 0


def test_metrics_are_not_reached_through_the_proxy(stack: Stack) -> None:
    assert httpx.get(f"{PROXY}/metrics").status_code == 404


def test_a_session_that_the_server_holds_goes_on_at_the_other_replica(stack: Stack) -> None:
    state = NEW
    with Client(PROXY) as client:
        for step in range(1, 5):
            result = client.step(MODEL, ROWS[step], state=state, hold="server")
            assert result.step == step
            state = result.state
    (redis,) = stack.compose("ps", "-q", "redis").split()
    assert int(docker("exec", redis, "redis-cli", "dbsize")) > 0


def test_prometheus_scrapes_both_replicas_and_has_the_rules(stack: Stack) -> None:
    wanted = {f"http://{stack.address(replica)}:8000/metrics" for replica in stack.replicas()}

    def asked(path: str) -> dict[str, Any]:
        return httpx.get(f"{PROMETHEUS}/api/v1/{path}", timeout=ANSWER_LIMIT_S).json()["data"]

    def up() -> set[str]:
        return {target["scrapeUrl"] for target in asked("targets")["activeTargets"] if target["health"] == "up"}

    wait_until(lambda: up() == wanted, "both replicas are scraped")
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "baton.rules.yml").read_text())["groups"]
    written = {rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]}
    assert {rule["name"] for group in asked("rules")["groups"] for rule in group["rules"]} == written


@pytest.mark.parametrize(("inside", "file"), MOUNTED.items())
def test_the_file_is_where_grafana_reads_it(stack: Stack, inside: str, file: str) -> None:
    (grafana,) = stack.compose("ps", "-q", "grafana").split()
    assert docker("exec", grafana, "cat", inside) == (ROOT / "deploy" / "grafana" / file).read_text().strip()


@pytest.mark.anyio
@pytest.mark.parametrize("end", [Stack.kill, Stack.recreate])
async def test_no_call_fails_and_no_session_is_lost_when_a_replica_goes(
    stack: Stack, end: Callable[[Stack, str], None]
) -> None:
    victim, other = await asyncio.to_thread(stack.replicas)
    until = asyncio.Event()
    traffic = Traffic(PROXY, model=MODEL, output="quantiles", rows=ROWS, texts=TEXTS)
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.keep_up(until))
        await traffic.wait_for(10, VERSION)
        await asyncio.to_thread(end, stack, victim)
        (back,) = set(await asyncio.to_thread(stack.replicas)) - {other}
        await asyncio.to_thread(stack.wait_until_healthy, back)
        while not await asyncio.to_thread(stack.counted, back, f'baton_steps_total{{model="{MODEL}"'):
            await traffic.wait_for(1, VERSION)
        await traffic.wait_for(10, VERSION)
        until.set()
    print(f"{end.__name__}: {traffic.tally}")
    assert (traffic.tally.failures, traffic.tally.lost) == ([], [])
    assert min(traffic.tally.steps, traffic.tally.frames, traffic.tally.batches) > 0


def test_locust_s_users_get_right_answers(stack: Stack) -> None:
    stack.compose("--profile", "load", "up", "--detach", "locust")
    with httpx.Client(base_url=LOCUST, timeout=ANSWER_LIMIT_S) as page:

        def is_there() -> bool:
            with suppress(httpx.TransportError):  # the engine listens already, locust does not
                return page.get("/").status_code == 200
            return False

        def total() -> dict[str, Any]:
            return next(row for row in page.get("/stats/requests").json()["stats"] if row["name"] == "Aggregated")

        wait_until(is_there, "locust shows its page")
        users = {"user_count": 4, "spawn_rate": 4, "host": "http://proxy:8000"}
        assert page.post("/swarm", data=users).json()["success"]
        wait_until(lambda: total()["num_requests"] > 50, "locust has sent 50 requests")
        page.get("/stop")
        assert total()["num_failures"] == 0


def with_next_version(folder: Path, choice: str | None) -> Path:
    """Fill an image's folder: the next version of the model, and a file that says which version answers new work."""
    models = folder / "models" / MODEL
    shutil.copytree(ROOT / "models" / MODEL / VERSION, models / NEXT_VERSION)
    manifest = json.loads((models / NEXT_VERSION / "manifest.json").read_text())
    (models / NEXT_VERSION / "manifest.json").write_text(json.dumps({**manifest, "version": NEXT_VERSION}))
    if choice:
        (models / CHOICE_FILE).write_text(json.dumps({"version": choice}))
    (folder / "Dockerfile").write_text("FROM baton\nCOPY models/ /srv/baton/models/\n")
    return folder


@pytest.mark.anyio
async def test_a_version_comes_to_three_replicas_image_by_image_and_no_session_is_lost(
    stack: Stack, tmp_path: Path
) -> None:
    """The first images have the version and begin nothing with it; when all replicas have it, the next ones do."""
    resuming = stack.build("resuming", with_next_version(tmp_path / "resuming", choice=VERSION))
    beginning = stack.build("beginning", with_next_version(tmp_path / "beginning", choice=None))
    stack.compose("up", "--detach", "--no-recreate", "--scale", "baton=3", "baton")
    for replica in stack.replicas():
        stack.wait_until_healthy(replica)
    until = asyncio.Event()
    traffic = Traffic(PROXY, model=MODEL, output="quantiles", rows=ROWS, texts=TEXTS)
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.keep_up(until))
        await traffic.wait_for(10, VERSION)
        await asyncio.to_thread(stack.roll_out, resuming)
        await traffic.wait_for(10, VERSION)
        assert set(traffic.tally.begun) == {VERSION}, "no session begins with a version that a replica may not have"
        await asyncio.to_thread(stack.roll_out, beginning)
        await traffic.wait_for(10, NEXT_VERSION)
        until.set()
    print(f"rolled out twice in {time.monotonic() - begun:.0f} s: {traffic.tally}")
    assert (traffic.tally.failures, traffic.tally.lost) == ([], [])
    assert min(traffic.tally.steps, traffic.tally.frames, traffic.tally.batches) > 0
    assert {docker("inspect", "--format", "{{.Config.Image}}", replica) for replica in stack.replicas()} == {beginning}


@pytest.mark.anyio
async def test_a_roll_out_that_fails_is_mended_by_the_next_and_one_replica_serves_all_the_while(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM baton\nENV BATON_PORT=none\n")
    broken = stack.build("broken", tmp_path)
    stack.compose("up", "--detach", "--no-recreate", "--scale", "baton=2", "baton")
    before = stack.replicas()
    for replica in before:
        stack.wait_until_healthy(replica)
    with Client(PROXY) as client:
        version = client.step(MODEL, ROWS[0]).version
    until = asyncio.Event()
    traffic = Traffic(PROXY, model=MODEL, output="quantiles", rows=ROWS, texts=TEXTS)
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic.keep_up(until))
        await traffic.wait_for(10, version)
        with pytest.raises(AssertionError, match=r"started again \d+ times; docker logs"):
            await asyncio.to_thread(stack.roll_out, broken)
        (serving,) = set(before) & set(stack.replicas())
        await traffic.wait_for(10, version)
        await asyncio.to_thread(stack.roll_out, docker("inspect", "--format", "{{.Config.Image}}", serving))
        await traffic.wait_for(10, version)
        until.set()
    print(f"rolled out, and back, in {time.monotonic() - begun:.0f} s: {traffic.tally}")
    assert (traffic.tally.failures, traffic.tally.lost) == ([], [])
    assert not set(before) & set(stack.replicas())
    for replica in stack.replicas():
        stack.wait_until_healthy(replica)


def test_the_only_replica_that_is_healthy_is_not_replaced(stack: Stack) -> None:
    stack.compose("up", "--detach", "--no-recreate", "--scale", "baton=1", "baton")
    (alone,) = stack.replicas()
    with pytest.raises(AssertionError, match=f"{alone} is the only one that is healthy"):
        stack.roll_out("baton")
    assert stack.replicas() == [alone]
    with Client(PROXY) as client:
        assert len(client.sentiment(TEXTS)) == len(TEXTS)
