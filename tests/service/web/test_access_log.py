"""The line of a request: as the logging module writes lines, many at a time."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys

import pytest

from service.web.access_log import ACCESS, LOG_FORMAT, RequestLog


class Sink(io.StringIO):
    """Counts what is written at a time."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def masked(line: str) -> str:
    return re.sub(r"\d", "0", line)


def test_a_line_looks_as_one_of_the_logging_module_does() -> None:
    sink = Sink()
    RequestLog(sink).write("GET /healthz 200")
    record = logging.LogRecord(ACCESS, logging.INFO, "", 0, "GET /healthz 200", None, None)
    assert masked(sink.getvalue()) == masked(logging.Formatter(LOG_FORMAT).format(record)) + "\n"
    assert f" {record.process} " in sink.getvalue()


def test_what_python_writes_by_itself_is_json_too() -> None:
    """A warning, a message whose arguments do not fit, and exceptions that nobody caught, wherever they were raised."""
    program = """if True:
        import logging, threading, warnings
        from service.web.access_log import configure_logging
        configure_logging("info", "json")
        class Unraisable:
            def __del__(self): raise ValueError("unheard")
        warnings.warn("beware")
        logging.error("so many: %d", "none")
        Unraisable()
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start(); thread.join()
        raise RuntimeError("the end\\nof it")
    """
    command = [sys.executable, "-W", "default", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    warned, misfit, unraisable, thread, end = map(json.loads, ended.stderr.splitlines())
    assert "beware" in warned["message"]
    assert misfit["message"] == "so many: %d"
    assert "TypeError: %d format" in misfit["traceback"]
    assert unraisable["traceback"].endswith("ValueError: unheard")
    assert thread["traceback"].endswith("ZeroDivisionError: division by zero")
    assert end["traceback"].endswith("RuntimeError: the end\nof it")
    assert (end["level"], end["logger"]) == ("CRITICAL", "baton")


@pytest.mark.anyio
async def test_the_lines_of_one_turn_of_the_loop_are_one_write() -> None:
    sink = Sink()
    log = RequestLog(sink)
    for line in ("first", "second", "third"):
        log.write(line)
    assert sink.writes == 0
    await asyncio.sleep(0)
    assert sink.writes == 1
    assert [line.split()[-1] for line in sink.getvalue().splitlines()] == ["first", "second", "third"]
