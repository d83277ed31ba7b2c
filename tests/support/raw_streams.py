"""Streams whose frames are sent and read by hand, as a client would that breaks off anywhere."""

from __future__ import annotations

import base64
import select
import socket
import struct
from typing import BinaryIO

from conftest import ANSWER_LIMIT_S, Server

MIB = 2**20
PING = 0x89
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)


def masked(data: bytes, kind: int = 0x82) -> bytes:
    """Return a frame of a client, its mask zero."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
    return bytes([kind]) + size + bytes(4) + data


def read_frame(incoming: BinaryIO) -> bytes:
    """Return what is in the next frame that is no ping: the service sends pings when a test takes long."""
    kind, size = incoming.read(2)
    if size == 126:
        (size,) = struct.unpack("!H", incoming.read(2))
    payload = incoming.read(size)
    return read_frame(incoming) if kind == PING else payload


class RawStream:
    """A stream whose frames are sent and read by hand."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=ANSWER_LIMIT_S)
        self._incoming = self.socket.makefile("rb")

    def __enter__(self) -> RawStream:
        self.socket.sendall(HANDSHAKE)
        while self._incoming.readline() != b"\r\n":
            pass
        self.socket.sendall(masked(b'{"model": "stepper", "return": "all"}', kind=0x81))
        self.read()
        return self

    def __exit__(self, *_: object) -> None:
        self._incoming.close()
        self.socket.close()

    def fill(self, frame: bytes) -> int:
        """Send frames until no more are taken for a while; return how many were sent whole."""
        sent, most = 0, 200 * MIB
        _, writable, _ = select.select([], [self.socket], [], 2)
        while writable and sent < most:
            sent += self.socket.send(frame[sent % len(frame) :])
            _, writable, _ = select.select([], [self.socket], [], 2)
        assert sent < most
        return sent // len(frame)

    def read(self) -> bytes:
        return read_frame(self._incoming)
