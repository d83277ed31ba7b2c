"""Logging to stderr: how lines look, and one write for the requests of one turn of the event loop.

It knows the logging module, not what is logged. Invariant: a line is written before the event loop waits again, and at
once where no loop runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TextIO

LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
ACCESS = "baton.access"

access_log = logging.getLogger(ACCESS)


def configure_logging(level: str) -> None:
    """Log to stderr what is at least as severe as `level`."""
    logging.logThreads = logging.logMultiprocessing = False  # what LOG_FORMAT does not show, no record needs to know
    logging._srcfile = None
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)


class RequestLog:
    """Lines as `access_log` would write them, for a quarter of the time: no record for each, no write for each."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream` from the process that this is made in."""
        self._stream, self._lines = stream, list[str]()
        self._second, self._time = 0, ""
        self._source = f"INFO {os.getpid()} {ACCESS}"

    def write(self, line: str) -> None:
        """Write `line` at the end of this turn of the event loop."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._time = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        self._lines.append(f"{self._time},{int(1000 * (now % 1)):03d} {self._source} {line}\n")
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._flush)
        except RuntimeError:
            self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()
