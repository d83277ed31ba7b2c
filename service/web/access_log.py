"""Logging to stderr: how lines look, and one write for the requests of one turn of the event loop.

It knows the logging module, not what is logged. Invariant: a line is written before the event loop waits again, and at
once where no loop runs.
"""

from __future__ import annotations

import asyncio
import logging

LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
ACCESS = "baton.access"


def configure_logging(level: str) -> None:
    """Log to stderr what is at least as severe as `level`."""
    logging.logThreads = logging.logMultiprocessing = False  # what LOG_FORMAT does not show, no record needs to know
    logging._srcfile = None
    logging.basicConfig(level=level.upper(), format=LOG_FORMAT)
    access = logging.getLogger(ACCESS)
    access.handlers, access.propagate = [GatheringHandler()], False


class GatheringHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes what one turn of the event loop logged at its end: a write for each costs more than the line."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(LOG_FORMAT))
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + self.terminator)
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:
            self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        self.stream.write("".join(lines))
        super().flush()
