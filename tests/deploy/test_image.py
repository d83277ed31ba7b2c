"""The image, built and run on a real engine: small, without rights, and of the same answers as `baton serve`."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from conftest import ANSWER_LIMIT_S, ROOT, Server
from engine import docker, need_engine, run, wait_until

from baton_client import Client

MODELS = ROOT / "models"
MEGABYTE = 10**6
CLOSE = 1e-5
HARDENED = ("--init", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
VALUES = [float(value) for value in 100 + 10 * np.sin(np.arange(48) / 3)]


@pytest.fixture(scope="module")
def image() -> str:
    need_engine()
    run("make", "image")
    return "baton"


class Container:
    """A running one of the image, as docs/deployment.md has it."""

    def __init__(self, image: str) -> None:
        options = (*HARDENED, "--health-interval=1s", "--publish=127.0.0.1::8000", "--env=BATON_OPEN_ACCESS=true")
        self.name = docker("run", "--detach", *options, image)
        self.url = f"http://{docker('port', self.name, '8000/tcp')}"

    def shell(self, script: str) -> str:
        return docker("exec", self.name, "sh", "-c", script)

    def wait_until_healthy(self) -> None:
        health = ("inspect", "--format", "{{.State.Health.Status}}", self.name)
        wait_until(lambda: docker(*health) == "healthy", "the container is healthy")

    def processes(self) -> list[int]:
        """Return the service's, by their ids on this machine: those of a health check come and go."""
        _, *lines = docker("top", self.name, "-eo", "pid,args").splitlines()
        return [int(line.split()[0]) for line in lines if line.endswith("baton serve")]


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    running = Container(image)
    running.wait_until_healthy()
    yield running
    docker("rm", "--force", "--volumes", running.name)


def test_the_image_is_small(image: str) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    print(f"image: {size / MEGABYTE:.0f} MB")
    assert size < 450 * MEGABYTE


def test_the_image_runs_as_a_user_without_rights(container: Container) -> None:
    assert container.shell("id -u; id -g").split() == ["10001", "10001"]
    status = dict(re.findall(r"^(\w+):\s*(.*)$", container.shell("cat /proc/1/status"), flags=re.M))
    assert {int(status[rights], 16) for rights in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_only_the_state_and_tmp_can_be_written(container: Container) -> None:
    folders = "/ /opt/baton /srv/baton/models /var/lib/baton /tmp"
    written = container.shell(f"for folder in {folders}; do touch $folder/x 2>/dev/null && echo $folder; done; true")
    assert written.split() == ["/var/lib/baton", "/tmp"]


def test_the_image_holds_neither_pip_nor_training(container: Container) -> None:
    absent = "import importlib.util as u; print([m for m in ('pip', 'torch', 'onnx', 'training') if u.find_spec(m)])"
    assert container.shell(f'python -c "{absent}"') == "[]"


def call_sentiment(url: str) -> Any:
    with Client(url) as client:
        return [result.polarity for result in client.sentiment(["A warm, funny film.", "No point in it."])]


def call_forecast(url: str) -> Any:
    with Client(url) as client:
        (forecast,) = client.forecast([{"values": VALUES, "start": "2026-01-05", "freq": "W"}], horizon=3, levels=[80])
        return [forecast.mean, *forecast.quantiles.values()]


def call_step(url: str) -> Any:
    with Client(url) as client:
        first = client.step("sentiment-live", "It starts out slow,")
        held = client.step("sentiment-live", "but it grows", state=first.state, hold="server")
        return client.step("sentiment-live", "into something.", state=held.state).outputs["scores"]


def call_stream(url: str) -> Any:
    with Client(url) as client, client.stream("forecast-live") as stream:
        return [output.outputs["quantiles"] for output in stream.map(np.array([[value]]) for value in VALUES)]


def call_v2(url: str) -> Any:
    tensor = {"name": "values", "shape": [1, len(VALUES)], "datatype": "FP64", "data": VALUES}
    answer = httpx.post(f"{url}/v2/models/forecast-live/infer", json={"inputs": [tensor]}, timeout=ANSWER_LIMIT_S)
    assert answer.status_code == 200, answer.text
    return next(output["data"] for output in answer.json()["outputs"] if output["name"] == "quantiles")


CALLS = (call_sentiment, call_forecast, call_step, call_stream, call_v2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as `make serve` runs it, beside the container."""
    server = Server(MODELS, tmp_path_factory.mktemp("state"), BATON_WORKERS="auto")
    yield server
    server.stop()


@pytest.mark.parametrize("call", CALLS)
def test_the_image_answers_as_the_service_does_without_it(
    call: Callable[[str], Any], container: Container, served: Server
) -> None:
    np.testing.assert_allclose(np.array(call(container.url)), np.array(call(served.url)), atol=CLOSE, rtol=CLOSE)


def own_bytes(processes: list[int]) -> int:
    """Return the memory of processes, with what forked ones share counted once, and without that of mapped files."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes]
    return sum(int(re.findall(r"^Pss_Anon: +(\d+) kB$", rollup, flags=re.M)[0]) * 1024 for rollup in rollups)


def test_the_container_takes_as_much_memory_as_the_service_without_it(container: Container, served: Server) -> None:
    for call in CALLS:
        for url in (container.url, served.url):
            call(url)
    children = psutil.Process(served.process.pid).children(recursive=True)
    inside = own_bytes(container.processes())
    outside = own_bytes([served.process.pid, *(child.pid for child in children)])
    print(f"own memory: {inside / MEGABYTE:.0f} MB in the container, {outside / MEGABYTE:.0f} MB without")
    assert 0 < inside < 1.2 * outside


def test_an_idle_container_drains_and_ends(image: str) -> None:
    container = Container(image)
    container.wait_until_healthy()
    begun = time.monotonic()
    docker("stop", "--time=60", container.name)
    print(f"docker stop, idle: {time.monotonic() - begun:.1f} s")
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container.name) == "0"
    log = run("sh", "-c", f"docker logs {container.name} 2>&1")
    assert "baton.app drained" in log
    docker("rm", "--volumes", container.name)


def test_the_image_serves_models_of_a_checkout_that_its_owner_alone_can_read(image: str, tmp_path: Path) -> None:
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "deploy" / "locks", tmp_path / "deploy" / "locks")
    for name in ("service", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        run("chmod", "-R", "go=", str(tmp_path / name))
    private = "baton-test:private"
    docker("build", "--tag", private, str(tmp_path))
    listed = [docker("run", "--rm", built, "models", "/srv/baton/models") for built in (image, private)]
    docker("image", "rm", private)
    assert listed[0] == listed[1]
    assert "sentiment" in listed[0]
