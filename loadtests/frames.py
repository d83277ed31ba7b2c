"""Closed-loop load over WebSockets: so many connections, each sending its next frame when it has its answer.

Frames are made beforehand and answers are compared by their length alone, on plain sockets: a WebSocket library would
cost more than the service it is to load. It knows RFC 6455's frames, not what they hold. It prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import time
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import numpy as np
import typer

TEXT, BINARY, CLOSE = 1, 2, 8
FINAL, MASKED = 0x80, 0x80
TIMEOUT_S = 30.0
RECEIVED_BYTES = 1 << 16


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole frame as a client sends it. Source: RFC 6455, section 5.2."""
    head, size = bytes([FINAL | opcode]), len(payload)
    if size < 126:
        head += bytes([MASKED | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", MASKED | 126, size)
    else:
        head += struct.pack("!BQ", MASKED | 127, size)
    mask = os.urandom(4)
    masked = np.frombuffer(payload, np.uint8) ^ np.resize(np.frombuffer(mask, np.uint8), size)
    return head + mask + masked.tobytes()


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole frame as a server sends it."""
    size = len(payload)
    if size < 126:
        return bytes([FINAL | opcode, size]) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", FINAL | opcode, 126, size) + payload
    return struct.pack("!BBQ", FINAL | opcode, 127, size) + payload


class Connection:
    """One WebSocket: opened, then one frame on its way at a time."""

    def __init__(self, url: str, opening: str | None) -> None:
        """Connect, and send `opening` and read its answer, if there is one. Raises: SystemExit when refused."""
        parts = urlsplit(url)
        self.sent, self.received = 0.0, bytearray()
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_S)
        try:
            self._open(url, opening)
        except BaseException:
            self.socket.close()
            raise

    def _open(self, url: str, opening: str | None) -> None:
        parts = urlsplit(url)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        answer = self._read_until(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"{url} refuses the WebSocket: {answer[:200]!r}")
        if opening is not None:
            self.socket.sendall(client_frame(TEXT, opening.encode()))
            answer = self._read_until(b"}")
            if b'"type":"open"' not in answer:
                raise SystemExit(f"{url} refuses the stream: {answer[:400]!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _read_until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            part = self.socket.recv(RECEIVED_BYTES)
            if not part:
                break
            received += part
        return received


def load(
    url: str, *, connections: int, seconds: float, opening: str | None, frames: list[bytes], answer_bytes: int
) -> dict[str, float]:
    """Return answers, those that were wrong, latencies in microseconds and the time it took.

    A wrong answer ends its connection. Frames are sent in turn, from another place on each connection.
    """
    head = server_frame(BINARY, bytes(answer_bytes))[:-answer_bytes]
    due = len(head) + answer_bytes
    with selectors.DefaultSelector() as chooser, ExitStack() as sockets:
        for number in range(connections):
            connection = sockets.enter_context(Connection(url, opening))
            turn = cycle(frames[number % len(frames) :] + frames[: number % len(frames)])
            chooser.register(connection.socket, selectors.EVENT_READ, (connection, turn))
        waits: list[float] = []
        errors = 0
        clock = time.perf_counter
        started = clock()
        for key in chooser.get_map().values():
            connection, turn = key.data
            connection.sent = clock()
            connection.socket.sendall(next(turn))
        while (now := clock()) - started < seconds and chooser.get_map():
            for key, _ in chooser.select(seconds):
                connection, turn = key.data
                came = connection.socket.recv(RECEIVED_BYTES)
                connection.received += came
                expected = connection.received.startswith(head[: len(connection.received)])
                if came and expected and len(connection.received) < due:
                    continue
                if not expected or len(connection.received) != due:
                    errors += 1
                    chooser.unregister(connection.socket)
                    continue
                connection.received.clear()
                now = clock()
                waits.append(now - connection.sent)
                connection.sent = now
                connection.socket.sendall(next(turn))
        elapsed = clock() - started
    p50, p99 = np.percentile(waits, [50, 99]) if waits else (0.0, 0.0)
    return {
        "answers": len(waits),
        "errors": errors,
        "p50_us": 1e6 * float(p50),
        "p99_us": 1e6 * float(p99),
        "elapsed_s": elapsed,
    }


def main(
    url: str,
    connections: Annotated[int, typer.Option(min=1)],
    seconds: Annotated[float, typer.Option(min=0.1)],
    payloads: Annotated[Path, typer.Option(help="float32 array of shape [frames, values]: NumPy's file format.")],
    answer_values: Annotated[int, typer.Option(min=1, help="float32 values in an answer.")],
    opening: Annotated[str | None, typer.Option(help="The first frame, if the server wants one.")] = None,
) -> None:
    """Load URL and print what came of it as JSON."""
    frames = [client_frame(BINARY, row.astype("<f4").tobytes()) for row in np.load(payloads)]
    found = load(
        url,
        connections=connections,
        seconds=seconds,
        opening=opening,
        frames=frames,
        answer_bytes=4 * answer_values,
    )
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
