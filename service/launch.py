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
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.errors import StartupError

ROOT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "service", "serve")
LISTENING = re.compile(r"Uvicorn running on (http://\S+)")
START_LIMIT_S = 1800.0  # an emulated processor takes many minutes
POLL_S = 0.002
MAX_LOG_CHARS = 4000


def launch(
    log: Path, environment: Mapping[str, str], command: Sequence[str] = SERVE, *, cwd: Path = ROOT
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `command` with its output in `log`; return its process, which the caller ends, and its URL.

    No variable `BATON_*` of this process reaches it, but those in `environment`.

    Raises: StartupError with the end of the log when it ends, or does not listen within minutes.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=cwd, env={**inherited, **environment}, stdout=sink, stderr=sink)
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        written = log.read_bytes()[before:].decode(errors="replace")
        if listening := LISTENING.search(written):
            return process, listening[1]
        if ended:
            break
        time.sleep(POLL_S)
    process.kill()
    process.wait()
    raise StartupError(f"{' '.join(command)} does not listen; its log:\n{written[-MAX_LOG_CHARS:]}")
