"""Logging to stderr: how lines look, and one write for the requests of one turn of the event loop.

It knows the logging module, not what is logged. Invariants: a line is written before the event loop waits again, and at
once where no loop runs; as `json`, what Python writes is one JSON object a line, a traceback one of its members.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, TextIO

from service.settings import LogFormat

LOG_FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"
JSON_TIME, JSON_MS = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
ACCESS = "baton.access"

access_log = logging.getLogger(ACCESS)
log = logging.getLogger("baton")


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time (UTC), level, process, logger, message, and a traceback where there is one."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = JSON_TIME, JSON_MS

    def format(self, record: logging.LogRecord) -> str:
        members = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
        }
        failure = record.exc_info
        try:
            members["message"] = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments do not fit; logging itself would write a traceback of many lines
            members["message"], failure = str(record.msg), sys.exc_info()
        if failure:
            members["traceback"] = self.formatException(failure)
        return json.dumps(members)


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Log to stderr what is at least as severe as `level`."""
    logging.logThreads = logging.logMultiprocessing = False  # what LOG_FORMAT does not show, no record needs to know
    logging._srcfile = None
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(LOG_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if log_format == "json":  # what Python writes by itself, too
        logging.captureWarnings(True)
        sys.excepthook = _log_failure
        threading.excepthook = sys.unraisablehook = _log_unheard


def _log_failure(kind: type[BaseException], failure: BaseException, trace: TracebackType | None) -> None:
    log.critical("nobody caught this", exc_info=(kind, failure, trace))


def _log_unheard(failure: Any) -> None:
    """Log what a thread ended with, or what was raised where nobody could catch it, as in a finalizer."""
    _log_failure(failure.exc_type, failure.exc_value or failure.exc_type(), failure.exc_traceback)


class RequestLog:
    """Lines as `access_log` would write them, for a quarter of the time: no record for each, no write for each."""

    def __init__(self, stream: TextIO, log_format: LogFormat = "text") -> None:
        """Write to `stream` from the process that this is made in."""
        self._stream, self._lines = stream, list[str]()
        self._second, self._time = 0, ""
        self._json = log_format == "json"
        pid = os.getpid()
        members = f'Z", "level": "INFO", "process": {pid}, "logger": "{ACCESS}", '
        self._source = members if self._json else f" INFO {pid} {ACCESS} "

    def write(self, line: str) -> None:
        """Write `line`, which is a JSON object where the log is, at the end of this turn of the event loop."""
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._time = self._told_time()
        line = line[1:] if self._json else line
        self._lines.append(f"{self._time}{int(1000 * (now % 1)):03d}{self._source}{line}\n")
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._flush)
        except RuntimeError:
            self._flush()

    def _told_time(self) -> str:
        if self._json:
            return '{"time": "' + time.strftime(f"{JSON_TIME}.", time.gmtime(self._second))
        return time.strftime("%Y-%m-%d %H:%M:%S,", time.localtime(self._second))

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()
