"""A new version of a model comes to three replicas, one by one, while steps, streams and batches go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from balancer import balanced
from conftest import TOKEN_KEYS, Server, ServerFactory, free_port
from each_worker import each_worker

from loadtests.traffic import Traffic
from service.contract.files import CHOICE_FILE

ROWS = np.random.default_rng(11).normal(size=(4000, 2)).astype(np.float32)
TEXTS = ("a good film", "very bad")


def images(root: Path) -> list[Path]:
    """Return the models of three images: with one version, with a second that only goes on, with both at work."""
    first, second, third = (root / name for name in ("first", "second", "third"))
    tiny.stepper(first, seed=1)
    tiny.sentiment(first)
    shutil.copytree(first, third)
    tiny.stepper(third, seed=2, version="2")
    shutil.copytree(third, second)
    (second / "stepper" / CHOICE_FILE).write_text(json.dumps({"version": "1"}))
    return [first, second, third]


class Replica:
    """A service whose models are those of an image."""

    def __init__(self, folder: Path, image: Path, workers: int, start_server: ServerFactory) -> None:
        folder.mkdir()
        self._models, self._workers = folder / "models", workers
        self._models.symlink_to(image)
        settings = {
            "BATON_TOKEN_KEYS": TOKEN_KEYS,
            "BATON_PORT": str(free_port()),
            "BATON_WORKERS": str(workers),
            "BATON_STORE": "memory",
        }
        self.server: Server = start_server(self._models, folder / "state", **settings)

    def replace(self, image: Path) -> None:
        """Stop the service, and start one of another image."""
        self.server.stop()
        self._put(image)
        self.server.start()

    def reload(self, image: Path) -> None:
        """Have every worker look at the models of another image, and kill a worker before it can."""
        with each_worker(self.server, self._workers) as clients:
            victim = next(iter(clients))
        start = self.server.mark()
        self._put(image)
        os.kill(victim, signal.SIGSTOP)
        self.server.process.send_signal(signal.SIGHUP)
        for _ in range(self._workers - 1):
            start += len(self.server.lines_since(start, until="models reloaded"))
        os.kill(victim, signal.SIGKILL)
        self.server.lines_since(start, until="Application startup complete")

    def _put(self, image: Path) -> None:
        self._models.unlink()
        self._models.symlink_to(image)


@pytest.mark.anyio
@pytest.mark.parametrize(("way", "workers"), [(Replica.replace, 1), (Replica.reload, 2)])
async def test_a_version_comes_to_three_replicas_one_by_one_and_no_session_is_lost(
    way: Callable[[Replica, Path], None], workers: int, tmp_path: Path, start_server: ServerFactory
) -> None:
    first, second, third = images(tmp_path)
    replicas = [Replica(tmp_path / f"replica-{number}", first, workers, start_server) for number in range(3)]
    until = asyncio.Event()

    async def roll(image: Path) -> None:
        for replica in replicas:
            await asyncio.to_thread(way, replica, image)

    with balanced([replica.server.url for replica in replicas], tmp_path / "nginx") as nginx:
        traffic = Traffic(nginx.url, model="stepper", output="y", rows=ROWS, texts=TEXTS)
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.keep_up(until))
            await traffic.wait_for(20, "1")
            await roll(second)
            await traffic.wait_for(20, "1")
            assert set(traffic.tally.begun) == {"1"}, "no session begins with a version that a replica may not have"
            await roll(third)
            await traffic.wait_for(20, "2")
            until.set()
    tally = traffic.tally
    assert (tally.failures, tally.lost) == ([], [])
    assert min(tally.steps, tally.frames, tally.batches) > 0
    assert all(replica.server.metric("baton_steps_total", "version", "1") for replica in replicas)
