"""The line of a request: as the logging module writes lines, many at a time."""

from __future__ import annotations

import asyncio
import io
import logging
import re

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
