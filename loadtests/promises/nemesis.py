"""The nemesis: it strikes one replica at a time, or the disk of all, and makes it good again.

It knows what can go wrong, not what clients do meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from loadtests.promises.history import History
from loadtests.promises.replicas import MOST_SHIFT_S, Replica, restarted
from loadtests.requirements import BenchError

REST_S = (0.5, 2.0)  # between two strokes
LASTING_S = (1.0, 6.0)
DISK_BYTES = 128 * 2**20
BLOCK = bytes(2**20)


class Nemesis:
    """Strikes until it is stopped; `disk` is where held states are, where it may be filled."""

    def __init__(self, replicas: Sequence[Replica], history: History, seed: int, disk: Path | None) -> None:
        self._replicas, self._history, self._rng, self._disk = replicas, history, Random(seed), disk
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": lambda: restarted(self._any(), signal.SIGKILL),
            "pause": self._pause,
            "roll": self._roll,
            "reload": self._reload,
            "clock": self._clock,
        }
        if disk is not None:
            self.kinds["disk"] = self._fill

    async def run(self, stopped: asyncio.Event) -> None:
        """Strike in every way, in an order drawn anew each round; the first round is whole."""
        strokes = 0
        while True:
            for kind in self._rng.sample(sorted(self.kinds), len(self.kinds)):
                if stopped.is_set() and strokes >= len(self.kinds):
                    return
                strokes += 1
                await self.kinds[kind]()
                self._history.nemeses[kind] += 1
                await asyncio.sleep(self._rng.uniform(*REST_S))

    def _any(self) -> Replica:
        return self._rng.choice(self._replicas)

    async def _pause(self) -> None:
        replica = self._any()
        replica.send(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(*LASTING_S))
        replica.send(signal.SIGCONT)

    async def _roll(self) -> None:
        """Restart all replicas one by one, as a roll-out does."""
        for replica in self._replicas:
            await restarted(replica, signal.SIGTERM)

    async def _reload(self) -> None:
        self._any().send(signal.SIGHUP)

    async def _clock(self) -> None:
        replica = self._any()
        replica.shift(self._rng.choice((-1, 1)) * MOST_SHIFT_S)
        await asyncio.sleep(self._rng.uniform(*LASTING_S))
        replica.shift(0.0)

    async def _fill(self) -> None:
        assert self._disk is not None
        file = self._disk / "full"
        await asyncio.to_thread(_fill_up, file)
        await asyncio.sleep(self._rng.uniform(*LASTING_S))
        file.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Yield a folder on a disk of its own that can be filled; None where this process may mount none."""
    folder.mkdir()
    options = f"size={DISK_BYTES}"
    mounted = os.geteuid() == 0 and _succeeds("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield folder if mounted else None
    finally:
        if mounted and not _succeeds("umount", str(folder)):
            raise BenchError(f"{folder} cannot be unmounted")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _fill_up(file: Path) -> None:
    """Write until there is no room."""
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(BLOCK)
        except OSError:
            return
