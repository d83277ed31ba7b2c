"""Open-loop load: requests leave when they are due, whether or not earlier ones were answered.

Arrivals are a Poisson process, drawn before the run. Latency counts from the moment a request was due, not from when it
could be sent, so a server that stalls cannot hide the requests it kept waiting. The requests are prepared bytes over
kept connections, and the answer is read as far as its status, its length and `Retry-After`, so that one core sends
more than 10,000 requests a second. It knows HTTP/1.1 as uvicorn speaks it (answers with a Content-Length), and not
what the bodies mean.

Invariant: every arrival ends as an answer with a status, a connection error, or unanswered, and is counted once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import signal
import sys
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

import numpy as np
import typer
import uvloop

from loadtests.outcome import NO_ANSWER, Array, Outcome, summarise
from loadtests.requirements import BenchError, raise_open_files

FIRST_CONNECTIONS = 64
MAX_CONNECTIONS = 8192
SPARE_FILES = 64  # that are no connections
TICK_S = 2.5e-4  # arrivals closer than this leave together
ANSWER_LIMIT_S = 30.0  # after the last arrival; the service answers or refuses within 10
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
END_OF_HEAD = b"\r\n\r\n"
MUST_SAY_WHEN = (429, 503)
NOBODY = -1  # a connection that waits for no answer


class _Connection(asyncio.Protocol):
    """One kept connection, and the arrival that waits for its answer."""

    transport: asyncio.WriteTransport

    def __init__(self, load: OpenLoop) -> None:
        self.load, self.arrival, self.alive, self.buffer = load, NOBODY, False, b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.alive = cast(asyncio.WriteTransport, transport), True
        self.load.freed(self)

    def data_received(self, data: bytes) -> None:
        answer = self.buffer + data
        head = answer.find(END_OF_HEAD)
        if head >= 0:
            length = CONTENT_LENGTH.search(answer, 0, head)
            if length is None:
                raise ValueError(f"an answer without Content-Length: {answer[:head]!r}")
            if len(answer) >= head + len(END_OF_HEAD) + int(length[1]):
                self.buffer = b""
                self.load.answered(self, answer[:head])
                return
        self.buffer = answer

    def connection_lost(self, failure: Exception | None) -> None:
        self.alive = False
        self.closed.set_result(None)
        self.load.lost(self)


class OpenLoop:
    """One run: `requests` in rotation, one for each time in `due`, over at most `most` connections.

    Units: `due` seconds from the start, rising, at least one; `seconds` how long arrivals come, which rates refer to.
    """

    def __init__(
        self, address: tuple[str, int], requests: Sequence[bytes], due: Sequence[float], *, seconds: float, most: int
    ) -> None:
        self._address, self._requests, self._seconds, self._most = address, requests, seconds, most
        self._due = [*due, math.inf]
        self._count = self._left = len(due)
        self._sent = [math.nan] * self._count
        self._ended = [math.nan] * self._count
        self._status = [NO_ANSWER] * self._count
        self._connection_errors = self._refused_without_retry_after = 0
        self._connections: set[_Connection] = set()
        self._most_open = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._free: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()
        self._next = 0

    async def run(self) -> Outcome:
        """Send every arrival and wait for the answers, at most `ANSWER_LIMIT_S` after the last was due.

        Raises: OSError when the server cannot be reached at the start.
        """
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        await asyncio.gather(*(self._connect(_Connection(self)) for _ in range(min(FIRST_CONNECTIONS, self._most))))
        self._loop.add_signal_handler(signal.SIGALRM, self._tick)  # the loop's own timers round to a millisecond
        gc.disable()
        cpu, self._start = time.process_time(), time.perf_counter()
        try:
            self._tick()
            await asyncio.wait({self._done}, timeout=self._seconds + ANSWER_LIMIT_S)
            elapsed = time.perf_counter() - self._start
        finally:
            gc.enable()
            self._loop.remove_signal_handler(signal.SIGALRM)
            await self._close()
        return summarise(
            due=np.array(self._due[:-1]),
            sent=np.array(self._sent),
            ended=np.array(self._ended),
            status=np.array(self._status),
            seconds=self._seconds,
            refused_without_retry_after=self._refused_without_retry_after,
            connection_errors=self._connection_errors,
            connections=self._most_open,
            cpu=(time.process_time() - cpu) / elapsed,
        )

    def arrivals(self) -> tuple[Array, Array, Array]:
        """Return when each arrival was due, when it ended (NaN where it did not), and its status (`NO_ANSWER`)."""
        return np.array(self._due[:-1]), np.array(self._ended), np.array(self._status)

    def _tick(self) -> None:
        now, due, place = time.perf_counter() - self._start, self._due, self._next
        while due[place] <= now:
            self._dispatch(place)
            place += 1
        self._next = place
        if place < self._count:
            signal.setitimer(signal.ITIMER_REAL, max(TICK_S, due[place] - now))

    def _dispatch(self, arrival: int) -> None:
        while self._free:
            connection = self._free.popleft()  # the one that rested longest: none rests until the server drops it
            if connection.alive:
                self._send(connection, arrival)
                return
        self._waiting.append(arrival)
        self._grow()

    def _grow(self) -> None:
        if len(self._connections) < self._most:
            task = self._loop.create_task(self._connect_later(_Connection(self)))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self, connection: _Connection) -> None:
        self._connections.add(connection)
        self._most_open = max(self._most_open, len(self._connections))
        await self._loop.create_connection(lambda: connection, *self._address)

    async def _connect_later(self, connection: _Connection) -> None:
        try:
            await self._connect(connection)
        except OSError:
            self._connections.discard(connection)
            if self._waiting:
                self._fail(self._waiting.popleft())

    def _send(self, connection: _Connection, arrival: int) -> None:
        connection.arrival = arrival
        self._sent[arrival] = time.perf_counter() - self._start
        connection.transport.write(self._requests[arrival % len(self._requests)])

    def freed(self, connection: _Connection) -> None:
        """Take a connection that waits for nothing."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def answered(self, connection: _Connection, head: bytes) -> None:
        """Count the answer that begins with `head`, and take the connection back."""
        arrival, connection.arrival = connection.arrival, NOBODY
        self._status[arrival] = status = int(head[9:12])
        if status in MUST_SAY_WHEN and not RETRY_AFTER.search(head):
            self._refused_without_retry_after += 1
        self._end(arrival)
        self.freed(connection)

    def lost(self, connection: _Connection) -> None:
        """Count what the connection waited for as failed, and replace it where arrivals wait."""
        self._connections.discard(connection)
        if connection.arrival != NOBODY:
            self._fail(connection.arrival)
        if self._waiting:
            self._grow()

    def _fail(self, arrival: int) -> None:
        self._connection_errors += 1
        self._end(arrival)

    def _end(self, arrival: int) -> None:
        self._ended[arrival] = time.perf_counter() - self._start
        self._left -= 1
        if not self._left:
            self._done.set_result(None)

    async def _close(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._waiting.clear()
        await asyncio.gather(*self._opening)
        connections = list(self._connections)
        for connection in connections:
            connection.arrival = NOBODY
            connection.transport.close()
        await asyncio.gather(*(connection.closed for connection in connections))


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Draw the arrivals of a Poisson process of `rate` per second: rising times in seconds, at least one."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, size=math.ceil(rate * seconds + 10 * math.sqrt(rate * seconds) + 10))
    times: list[float] = np.cumsum(gaps).tolist()
    return times[: max(1, bisect_left(times, seconds))]


def prepare(url: str, bodies: Sequence[bytes]) -> tuple[tuple[str, int], list[bytes]]:
    """Return host and port, and the whole requests that post `bodies` to `url`. Raises: BenchError."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise BenchError(f"{url!r} is no http:// address")
    head = f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    return (parts.hostname, parts.port or 80), requests


def main(
    url: Annotated[str, typer.Argument(help="Where to post, as in http://127.0.0.1:8000/v1/sentiment.")],
    rate: Annotated[float, typer.Option(min=0.01, help="Arrivals per second.")],
    seconds: Annotated[float, typer.Option(min=0.01, help="How long they arrive.")],
    payloads: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="File with one JSON body a line.")],
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 0,
) -> None:
    """Send the bodies at random times that do not depend on the answers; print what became of them as JSON."""
    bodies = payloads.read_bytes().splitlines()
    most = min(MAX_CONNECTIONS, raise_open_files() - SPARE_FILES)
    try:
        load = OpenLoop(*prepare(url, bodies), poisson(rate, seconds, seed), seconds=seconds, most=most)
        print(json.dumps(asdict(uvloop.run(load.run())), indent=2))
    except (OSError, BenchError) as failure:
        sys.exit(f"openloop: {failure}")


if __name__ == "__main__":
    typer.run(main)
