"""Three pods of deploy/kubernetes behind nginx: rolled, killed, hung, and no session is lost.

Probes, times, limits and strategy are those of the manifests, to the second: a pod that hangs is given up after a
minute, and killed when its grace is over.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny
from balancer import balanced
from deployment import deployed
from manifests import KUBECTL, KUSTOMIZATION, Manifest, build, gather
from overlays import KEYS, copy_overlays, write_keys
from pods import service_pod

from loadtests.traffic import Traffic
from service.state.keys import new_key

REPLICAS, SESSIONS, CORES = 3, 100, 2
ROWS = np.random.default_rng(12).normal(size=(2000, 2)).astype(np.float32)
TEXTS = ("a good film", "very bad")


def plain_overlay(folder: Path) -> Path:
    """Return the example without its Redis, as docs/kubernetes.md tells whoever holds no states."""
    overlay = copy_overlays(folder) / "example"
    kustomization = overlay / KUSTOMIZATION
    kustomization.write_text(kustomization.read_text().replace("  - ../../components/redis\n", ""))
    return overlay


def rendered(overlay: Path) -> list[Manifest]:
    return build(overlay) if KUBECTL else gather(overlay)


@pytest.mark.cluster
@pytest.mark.anyio
async def test_three_pods_are_rolled_and_killed_and_hang_and_no_session_is_lost(tmp_path: Path) -> None:
    models, overlay = tmp_path / "models", plain_overlay(tmp_path)
    tiny.stepper(models)
    tiny.sentiment(models)
    first, second = new_key(), new_key()
    write_keys(overlay, first)
    until = asyncio.Event()
    with balanced([], tmp_path / "nginx") as nginx:
        async with deployed(REPLICAS, models, tmp_path, nginx.turn_to) as deployment, asyncio.TaskGroup() as group:
            await deployment.apply(rendered(overlay))
            traffic = Traffic(
                nginx.url,
                model="stepper",
                output="y",
                rows=ROWS,
                texts=TEXTS,
                pause_s=3,
                steppers=SESSIONS,
                api_key=KEYS["shop"],
            )
            group.create_task(traffic.keep_up(until))
            await traffic.wait_for(SESSIONS, "1")
            before = len(nginx.statuses())
            write_keys(overlay, first, second)  # the first round of a rotation
            await deployment.apply(rendered(overlay))
            rolled = nginx.statuses()[before:]
            assert {*rolled} <= {101, 200}, "a roll-out fails no request"
            assert deployment.statuses == [0] * REPLICAS, "each drained within its grace"

            killed, hung, spared = deployment.pods
            killed.send(signal.SIGKILL)
            await deployment.until(lambda: bool(killed.restarts) and killed.ready)
            hung.send(signal.SIGSTOP)
            await deployment.until(lambda: bool(hung.restarts) and hung.ready)
            await traffic.wait_for(10, "1")
            until.set()
            assert [pod.restarts for pod in (killed, hung, spared)] == [["ended with -9"], ["livenessProbe"], []]
            assert [pod.written() for pod in deployment.pods] == [[]] * REPLICAS
            assert {pod.workers for pod in deployment.pods} == {min(CORES, len(os.sched_getaffinity(0)))}
    tally = traffic.tally
    assert (tally.failures, tally.lost) == ([], [])
    assert min(tally.steps, tally.frames, tally.batches) > 0


@pytest.mark.cluster
@pytest.mark.anyio
async def test_a_pod_that_takes_more_than_its_memory_is_started_again(tmp_path: Path) -> None:
    models, manifests = tmp_path / "models", rendered(plain_overlay(tmp_path))
    tiny.stepper(models)
    service_pod(manifests)["spec"]["containers"][0]["resources"]["limits"]["memory"] = "16Mi"
    async with deployed(1, models, tmp_path, lambda urls: None) as deployment:
        applying = asyncio.create_task(deployment.apply(manifests))
        await deployment.until(lambda: any(pod.restarts for pod in deployment.pods))
        applying.cancel()
        assert [pod.restarts for pod in deployment.pods] == [["memory"]]
