"""A server in a process of its own, for whoever uses the service whole: figures of training, load tests, tests.

It knows the line in which uvicorn's servers, the service among them, say where they listen; not what is served.
Invariant: the server listens when `launch` returns, or it has ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from service.errors import StartupError

ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "service", "serve")
LISTENING = re.compile(r"Uvicorn running on (http://\S+)")
START_LIMIT_S = 120.0
POLL_S = 0.002
MAX_LOG_CHARS = 4000


def launch(
    log: Path,
    environment: Mapping[str, str],
    command: Sequence[str] = SERVE,
    *,
    cwd: Path = ROOT,
    limit_s: float = START_LIMIT_S,
    start: Callable[..., Any] = subprocess.Popen,
) -> tuple[Any, str]:
    """Start `command` with its output in `log`; return its process, which the caller ends, and its URL.

    No variable `BATON_*` of this process reaches it, but those in `environment`.

    Raises: StartupError with the end of the log when it ends, or does not listen within `limit_s`.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    with log.open("ab") as sink, log.open(errors="replace") as written:
        written.seek(sink.tell())
        process = start(command, cwd=cwd, env={**inherited, **environment}, stdout=sink, stderr=sink)
        try:
            return process, _wait_for_url(process, written, limit_s)
        except BaseException:  # whoever interrupts this has no process to end
            process.kill()
            process.wait()
            raise


def _wait_for_url(process: Any, written: TextIO, limit_s: float) -> str:
    deadline, log = time.monotonic() + limit_s, ""
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        log += written.read()
        if listening := LISTENING.search(log):
            return listening[1]
        if ended:
            raise StartupError(f"the server ended before it listened; its log:\n{log[-MAX_LOG_CHARS:]}")
        time.sleep(POLL_S)
    raise StartupError(f"the server does not listen within {limit_s:g} s; its log:\n{log[-MAX_LOG_CHARS:]}")
