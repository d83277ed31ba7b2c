"""Three services of this machine that share token keys and held states, and what can happen to each.

They know processes, signals, files and clocks, not sessions. A replica's clock is shifted by a number in a file, which
`sitecustomize` has `time.time` add in every process of the replica.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

from service.launch import launch

CLOCK = struct.Struct("<d")
SHIFTED = """
import mmap, os, struct, time
with open(os.environ["PROMISES_CLOCK"], "rb") as file:
    shift = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
of_the_machine = time.time
time.time = lambda: of_the_machine() + struct.unpack("<d", shift)[0]
"""
MOST_SHIFT_S = 3600.0
SETTINGS = {
    "BATON_WORKERS": "1",
    "BATON_CLOCK_SKEW_S": str(int(3 * MOST_SHIFT_S)),  # clocks that are apart by less lose nothing
    "BATON_STORE_BYTES": str(64 * 2**20),
}
END_S = 40.0


class Replica:
    """A service that keeps its address, however often it is started."""

    def __init__(self, name: str, folder: Path, models: Path, state_dir: Path) -> None:
        own = folder / name
        own.mkdir()
        (own / "sitecustomize.py").write_text(SHIFTED)
        self._clock_file = own / "clock"
        self._clock_file.write_bytes(CLOCK.pack(0.0))
        with self._clock_file.open("r+b") as file:
            self._shift = mmap.mmap(file.fileno(), CLOCK.size)
        self.name, self.log, self._port = name, own / "log", "0"
        path = os.pathsep.join([str(own), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment = {
            "BATON_MODELS_DIR": str(models),
            "BATON_STATE_DIR": str(state_dir),
            "PYTHONPATH": path,
            "PROMISES_CLOCK": str(self._clock_file),
            **SETTINGS,
        }
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it listens: at the same address as before."""
        self._process, self.url = launch(self.log, {**self._environment, "BATON_PORT": self._port})
        self._port = self.url.rsplit(":", 1)[1]

    def send(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def wait(self) -> None:
        """Wait until it has ended. Raises: subprocess.TimeoutExpired when it does not."""
        assert self._process is not None
        self._process.wait(END_S)

    def shift(self, seconds: float) -> None:
        """Put the clock of all its processes forward or back by so much."""
        self._shift[:] = CLOCK.pack(seconds)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
        self.wait()


async def restarted(replica: Replica, how: signal.Signals) -> None:
    """End a replica by a signal, and start it again."""
    replica.send(how)
    await asyncio.to_thread(replica.wait)
    await asyncio.to_thread(replica.start)
