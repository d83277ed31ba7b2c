"""Connections without a network: bytes go straight into the protocols that the service has of uvicorn.

It knows uvicorn's interface and asyncio's, not what the bytes are. Invariant: whatever came, the connection's tasks
end with it, and nobody raised or logged an error.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.settings import Settings
from service.web.clients import Clients
from service.web.heads import HttpProtocol
from service.web.websocket import Connection, End, StreamProtocol

HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MOST_TURNS = 1000
SETTINGS = Settings(max_frame_bytes=1024, max_head_bytes=1024, max_header_fields=10)


class Transport(asyncio.Transport):
    """What a protocol believes to be its connection; what it writes goes nowhere."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.closing = self.paused = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        assert isinstance(data, bytes | bytearray | memoryview)

    def write_eof(self) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with its body, and a stream's frames with themselves."""
    if scope["type"] == "websocket":
        await _echo_frames(Connection(receive, send, patience_s=60))
        return
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def _echo_frames(connection: Connection) -> None:
    """Do what the service's streams do when the client has left: end, and tell nobody."""
    try:
        await connection.accept(None)
        while True:
            await connection.send(await connection.receive())
    except End as end:
        if not end.left:
            await connection.close(end.code)
    except asyncio.CancelledError:
        pass
    finally:
        connection.release()


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


class Wire:
    """Carries pieces of bytes to a new connection each time."""

    def __init__(self) -> None:
        clients, ws = Clients(0), partial(StreamProtocol, max_token_bytes=1024)
        self._create: Any = partial(HttpProtocol, settings=SETTINGS, clients=clients)
        options: Any = {"http": self._create, "ws": partial(ws, clients=clients)}
        most = SETTINGS.max_frame_bytes
        self._config = uvicorn.Config(
            echo, lifespan="off", proxy_headers=False, log_config=None, access_log=False, ws_max_size=most, **options
        )
        self._config.load()
        self._runner = asyncio.Runner()
        atexit.register(self._runner.close)

    def carry(self, pieces: Sequence[bytes]) -> None:
        """Raises: AssertionError for an error that was logged, or a task that does not end."""
        errors = _Errors()
        logging.getLogger().addHandler(errors)
        try:
            self._runner.run(self._carry(pieces))
        finally:
            logging.getLogger().removeHandler(errors)
        assert not errors.found, errors.found

    async def _carry(self, pieces: Sequence[bytes]) -> None:
        state, transport = ServerState(), Transport()
        transport.set_protocol(self._create(config=self._config, server_state=state, app_state={}))
        transport.protocol.connection_made(transport)
        for piece in pieces:
            await _turn_while(lambda: transport.paused and not transport.closing)
            if transport.closing:
                break
            transport.protocol.data_received(piece)
            await asyncio.sleep(0)
        transport.closing = True
        transport.protocol.connection_lost(None)
        await _turn_while(lambda: bool(state.tasks))
        assert not state.tasks, "a task outlives its connection"


async def _turn_while(holds: Callable[[], bool]) -> None:
    """Turn the loop while `holds` does, for a time."""
    for _ in range(MOST_TURNS):
        if not holds():
            break
        await asyncio.sleep(0)
