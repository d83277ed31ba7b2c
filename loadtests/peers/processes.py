"""Servers as process trees: started, waited for, and ended with everything that they started.

It knows processes, not what is asked of them. Invariant: when the block ends, nothing of the tree runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from loadtests.peers.environments import PeerError
from loadtests.serving import Running

START_LIMIT_S, END_LIMIT_S, POLL_S = 120.0, 15.0, 0.1
MAX_LOG_CHARS = 600
Ask = Callable[[str], httpx.Response]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def running(
    command: Sequence[str], variables: Mapping[str, str], folder: Path, port: int, ask: Ask
) -> Iterator[Running]:
    """Run `command` in `folder` until the block ends; it begins when `ask` of its URL is answered with 200.

    Raises: PeerError with the end of the log when the server ends or is not ready in time.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    log, url, started = folder / "log", f"http://127.0.0.1:{port}", time.perf_counter()
    with log.open("wb") as sink:
        process = psutil.Popen(
            command,
            cwd=folder,
            env={**inherited, **variables},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        try:
            while not _answers(ask, url):
                if process.poll() is not None or time.perf_counter() - started > START_LIMIT_S:
                    raise PeerError(f"it does not start: {log.read_text(errors='replace')[-MAX_LOG_CHARS:].strip()}")
                time.sleep(POLL_S)
            yield Running(url, process.pid, time.perf_counter() - started)
        finally:
            _end(process)


def _answers(ask: Ask, url: str) -> bool:
    try:
        return ask(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _end(process: psutil.Popen) -> None:
    tree = []
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself
        tree = [process, *process.children(recursive=True)]
        process.terminate()
    _, left = psutil.wait_procs(tree, END_LIMIT_S)
    for each in left:
        each.kill()
    with suppress(ProcessLookupError):  # of a server that ended by itself others may be left
        os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(left, END_LIMIT_S)
