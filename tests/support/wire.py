"""A server spoken to byte by byte, as no HTTP client would."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

from conftest import ANSWER_LIMIT_S, Server

STATUS = re.compile(rb"HTTP/1\.1 (\d+) ")
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = GET.replace(b"host", b"connection: close\r\nhost")
CHUNKED = b"transfer-encoding: chunked\r\n"


def post(body: bytes, *fields: bytes, path: bytes = b"/v1/sentiment", length: int | None = None) -> bytes:
    """Return a request that is the last of its connection; `length` is what it says that its body has."""
    told = b"content-length: %d" % (len(body) if length is None else length)
    return head(b"POST " + path + b" HTTP/1.1", b"content-type: application/json", *fields, told) + body


def post_chunks(chunks: bytes, *fields: bytes) -> bytes:
    """Return a request whose body is what is given, chunks or not."""
    return head(b"POST /v1/sentiment HTTP/1.1", b"content-type: application/json", *fields, CHUNKED.strip()) + chunks


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, b"host: x", b"connection: close", *fields, b"", b""])


def chunk(body: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(body), extension, body)


def exchange(server: Server, sent: bytes) -> bytes:
    """Send what is given, until the server has heard enough; return all that it answers until it closes."""
    answer = b""
    with socket.create_connection(server.address, timeout=ANSWER_LIMIT_S) as connection:
        with suppress(OSError):  # whoever refuses a flood need not swim in it
            connection.sendall(sent)
        with suppress(ConnectionResetError):
            while received := connection.recv(65_536):
                answer += received
    return answer


def drip(server: Server, begun: bytes, rest: bytes) -> bytes:
    """Send what has begun, then the same rest again and again; return the beginning of the answer."""
    with socket.create_connection(server.address, timeout=ANSWER_LIMIT_S) as connection:
        connection.sendall(begun)
        connection.settimeout(0.02)
        for _ in range(1500):
            with suppress(TimeoutError):
                return connection.recv(65_536)
            connection.sendall(rest)
    raise AssertionError("no answer, however much was sent")


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(answer)]
