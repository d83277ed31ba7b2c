"""Services that are forked from a process which has imported them, as workers are: an import takes a second.

It knows how a process is started, not what is served. A service is as `python -m service` of its own would be, but for
its command line in /proc.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from service.launch import ROOT

PRELOADED = ["service.cli.command", "service.workers.run", "service.workers.worker"]
COMMAND = (sys.executable, "-m", "service")


class Forked:
    """A process as `subprocess.Popen` has it, in what tests ask of a server's."""

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_serve, args=(tuple(command[3:]), str(cwd), dict(env), stdout.name))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("python -m service", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def can_fork(command: Sequence[str], cwd: Path, settings: Mapping[str, str]) -> bool:
    """Whether a service differs from others by its settings alone, which are read after the fork."""
    return tuple(command[:3]) == COMMAND and cwd == ROOT and all(name.startswith("BATON_") for name in settings)


def _serve(arguments: Sequence[str], cwd: str, environment: Mapping[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sink = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.close(sink)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["baton", *arguments]
    try:
        runpy.run_module("service", run_name="__main__")
    finally:
        atexit._run_exitfuncs()
