"""The Deployment of manifests at work on this machine: its pods are processes, run as a cluster would run them.

What kubelet and controller do is done here: probes, restarts, preStop, grace, roll-outs, endpoints. It knows manifests
and the image's Dockerfile, not what is asked of the service. Each pod has a loopback address of its own, and so the
port of the manifests. Invariant: of a container nothing is changed but its paths and the address that it listens at.

Of the limits that a kernel keeps, CPU is so many cores to run on, and memory is looked at each second: all processes
together, pages that they share counted for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
from conftest import ROOT
from manifests import Manifest, named
from pods import environment, ports, service_pod, size_bytes

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE_VARIABLES = dict(re.findall(r"(BATON_\w+)=([^\s\\]+)", DOCKERFILE))
ENTRYPOINT, CMD = (
    json.loads(re.findall(rf"^{word} (\[.*\])$", DOCKERFILE, re.MULTILINE)[0]) for word in ("ENTRYPOINT", "CMD")
)
PROGRAMS = {"baton": (sys.executable, "-m", "service")}
EVERY_S = 1.0
PROGRESS_S = 600  # of a Deployment that says nothing else


class Unwell(Exception):
    """Why a container is started again."""


class Pod:
    """A pod of one container, which is started again whenever it ends or its probes give it up.

    `ready` is what its readiness probe says, and `restarts` are the reasons so far. `on_change` is called when either
    changes.
    """

    def __init__(self, manifests: list[Manifest], models: Path, folder: Path, on_change: Callable[[], None]) -> None:
        folder.mkdir()
        self._folder, self._models, self._on_change, self._log = folder, models, on_change, folder / "log"
        pod = service_pod(manifests)
        (self._container,) = pod["spec"]["containers"]
        self._grace_s, self._ports = pod["spec"]["terminationGracePeriodSeconds"], ports(pod)
        self._variables = IMAGE_VARIABLES | environment(self._container, manifests)
        self._address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        self.url = f"http://{self._address}:{self._variables['BATON_PORT']}"
        self.ready = False
        self.restarts: list[str] = []
        self._prober = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))  # as the kubelet connects
        self._life = asyncio.create_task(self._live())
        self._life.add_done_callback(lambda _: on_change())

    def check(self) -> None:
        """Raises: what the pod's life ended of, which nobody awaits."""
        if self._life.done() and not self._life.cancelled():
            self._life.result()

    def send(self, what: signal.Signals) -> None:
        """Send a signal to every process of the container."""
        os.killpg(self._process.pid, what)

    async def end(self) -> int:
        """End the pod as whoever deletes it: at once out of the endpoints. Return the exit status of its process 1."""
        self._life.cancel()
        self._set_ready(False)
        await self._stop()
        await self._prober.aclose()
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def workers(self) -> int:
        """How many processes it has beside process 1."""
        return len(self._processes()) - 1

    def written(self) -> list[str]:
        """Return the files that its processes have open to write, but its log and those of its volumes."""
        found = {Path(f.path) for process in self._processes() for f in process.open_files() if f.mode != "r"}
        return [str(file) for file in found - {self._log} if not file.is_relative_to(self._place("/tmp"))]

    async def _live(self) -> None:
        while True:
            await self._start()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._ended())
                    group.create_task(self._weighed())
                    await self._started()
                    group.create_task(self._follow_readiness())
                    group.create_task(self._alive())
            except* Unwell as reasons:
                self.restarts.append(str(reasons.exceptions[0]))
            self.ready = False
            self._on_change()
            await self._stop()

    async def _start(self) -> None:
        command = self._container.get("command", ENTRYPOINT)
        arguments = self._container.get("args", [] if "command" in self._container else CMD)
        for mount in self._container["volumeMounts"]:
            self._place(mount["mountPath"]).mkdir(exist_ok=True)
        places = {
            "BATON_HOST": self._address,
            "BATON_MODELS_DIR": str(self._models),
            "BATON_STATE_DIR": str(self._place(self._variables["BATON_STATE_DIR"])),
            "TMPDIR": str(self._place("/tmp")),
        }
        outside = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *PROGRAMS[command[0]],
                *command[1:],
                *arguments,
                cwd=ROOT,
                env=outside | self._variables | places,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self._process.pid, cores[: int(self._container["resources"]["limits"]["cpu"])])

    async def _stop(self) -> None:
        """Wait as preStop says, send SIGTERM to process 1, and once the grace is over SIGKILL to all."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    with suppress(TimeoutError):
                        pre_stop_s = self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
                        await asyncio.wait_for(self._process.wait(), pre_stop_s)
                    if self._process.returncode is None:
                        self._process.terminate()
                    await self._process.wait()
        finally:
            with suppress(ProcessLookupError):
                self.send(signal.SIGKILL)
        await self._process.wait()

    async def _ended(self) -> None:
        raise Unwell(f"ended with {await self._process.wait()}")

    async def _weighed(self) -> None:
        limit_bytes = size_bytes(self._container["resources"]["limits"]["memory"])
        while True:
            with suppress(psutil.NoSuchProcess):  # one that ended meanwhile
                if sum(process.memory_info().rss for process in self._processes()) > limit_bytes:
                    self.send(signal.SIGKILL)
                    raise Unwell("memory")
            await asyncio.sleep(EVERY_S)

    async def _started(self) -> None:
        async for well in self._verdicts("startupProbe"):
            if well:
                return
            raise Unwell("startupProbe")

    async def _follow_readiness(self) -> None:
        async for well in self._verdicts("readinessProbe"):
            self._set_ready(well)

    async def _alive(self) -> None:
        async for well in self._verdicts("livenessProbe"):
            if not well:
                raise Unwell("livenessProbe")

    async def _verdicts(self, name: str) -> AsyncIterator[bool]:
        """Yield what a probe says: yes at an answer, no at as many failures in a row as its threshold, else nothing."""
        probe, failures = self._container[name], 0
        url = f"http://{self._address}:{self._ports[probe['httpGet']['port']]}{probe['httpGet']['path']}"
        while True:
            began = time.monotonic()
            failures = 0 if await self._answers(url, probe["timeoutSeconds"]) else failures + 1
            if not failures or failures >= probe.get("failureThreshold", 3):
                yield not failures
            await asyncio.sleep(max(0.0, began + probe["periodSeconds"] - time.monotonic()))

    async def _answers(self, url: str, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):  # alone: a second limit at the same moment may swallow a cancellation
                return 200 <= (await self._prober.get(url, timeout=None)).status_code < 400
        except (TimeoutError, httpx.HTTPError):
            return False

    def _set_ready(self, ready: bool) -> None:
        if ready != self.ready:
            self.ready = ready
            self._on_change()

    def _processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def _place(self, path: str) -> Path:
        """Return where a path of the container is here."""
        return self._folder / path.strip("/").replace("/", "-")


class Deployment:
    """So many replicas of the pod of those manifests that were applied last.

    `on_endpoints` is told the URLs of those that are ready. `pods` are those that stay; `statuses` are those with which
    the others ended.
    """

    def __init__(
        self, replicas: int, models: Path, folder: Path, on_endpoints: Callable[[Sequence[str]], None]
    ) -> None:
        self._replicas, self._models, self._folder, self._on_endpoints = replicas, models, folder, on_endpoints
        self.pods: list[Pod] = []
        self.statuses: list[int] = []
        self._made, self._changed = 0, asyncio.Event()

    async def apply(self, manifests: list[Manifest]) -> None:
        """Replace all pods by those of `manifests`, as fast as the strategy allows; wait until that is done."""
        strategy = named(manifests, "Deployment", "baton")["spec"]["strategy"]["rollingUpdate"]
        old, new = self.pods[:], list[Pod]()
        async with asyncio.TaskGroup() as leaving:
            while old or len(new) < self._replicas or not all(pod.ready for pod in new):
                room = self._replicas + strategy["maxSurge"] - len(self.pods)
                for _ in range(min(room, self._replicas - len(new))):
                    new.append(self._add(manifests))
                spare = len(self._ready) - (self._replicas - strategy["maxUnavailable"])
                for pod in old[: max(0, spare)]:
                    old.remove(pod)
                    self.pods.remove(pod)
                    leaving.create_task(self._end(pod))
                await self._change_comes()

    async def until(self, settled: Callable[[], bool]) -> None:
        """Wait until `settled` says so, which is asked whenever a pod has changed."""
        while not settled():
            await self._change_comes()

    async def _change_comes(self) -> None:
        async with asyncio.timeout(PROGRESS_S):
            await self._changed.wait()
        self._changed.clear()
        for pod in self.pods:
            pod.check()

    async def end(self) -> None:
        await asyncio.gather(*map(self._end, self.pods))

    @property
    def _ready(self) -> list[Pod]:
        return [pod for pod in self.pods if pod.ready]

    def _add(self, manifests: list[Manifest]) -> Pod:
        self._made += 1
        self.pods.append(Pod(manifests, self._models, self._folder / f"pod-{self._made}", self._change))
        return self.pods[-1]

    async def _end(self, pod: Pod) -> None:
        self.statuses.append(await pod.end())

    def _change(self) -> None:
        self._on_endpoints([pod.url for pod in self._ready])
        self._changed.set()


@asynccontextmanager
async def deployed(
    replicas: int, models: Path, folder: Path, on_endpoints: Callable[[Sequence[str]], None]
) -> AsyncIterator[Deployment]:
    """Yield a Deployment that has no pods yet, and end its pods."""
    deployment = Deployment(replicas, models, folder, on_endpoints)
    try:
        yield deployment
    finally:
        await deployment.end()
