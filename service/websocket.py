"""WebSocket connections as streams need them: uvicorn's, with an end that leaves time for a last frame.

It knows uvicorn and ASGI, not streams. Invariants: what a client sent and nobody received yet is bounded, whatever it
sends; nothing is read from a client that does not read what it was sent; an application that still runs when its
client has left is cancelled with `GONE`. One message is added to ASGI's: `websocket.end`, with a `code`, says that the
connection will be closed with it, once the application has sent its last frames and a `websocket.close`.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

log = logging.getLogger("baton.websocket")
log.setLevel(logging.WARNING)  # who connects is told by the access log

GONE = "the client left"  # why a task is cancelled
MOST_WAITING = 8  # frames that wait to be received, until no more is read
PIECE = 16_384  # bytes parsed at a time: of very small frames so many come at once
TEXT, BINARY = 0x81, 0x82  # a whole frame of each kind
RESTART = 1012


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection of uvicorn's server."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.logger = self.conn.logger = log
        self._unparsed = b""
        self._task: asyncio.Task[Any] | None = None
        self._ending = False
        self._failure = b""  # the close frame that answers what is no WebSocket frame, or none that is allowed

    async def run_asgi(self) -> None:
        self._task = asyncio.current_task()
        try:
            await super().run_asgi()
        finally:
            self._task = None
            self.loop.call_later(self.close_timeout, self.transport.abort)  # for a client that does not read

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel(GONE)

    def shutdown(self) -> None:
        if self.handshake_complete and not self.close_sent:
            self._end(RESTART)
        else:
            super().shutdown()

    def handle_parser_exception(self) -> None:
        if not self.handshake_complete or self._ending:
            super().handle_parser_exception()
            return
        assert self.conn.close_sent is not None
        self._failure = b"".join(self.conn.data_to_send())
        self._end(self.conn.close_sent.code)

    def _end(self, code: int) -> None:
        """Have the application end; what it has not received yet it never will."""
        self._ending = True
        self.stop_keepalive()
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(cast(Any, {"type": "websocket.end", "code": code}))

    def data_received(self, data: bytes) -> None:
        if self._failure:
            return
        if self._unparsed or len(data) > PIECE or not self._may_read():
            self._unparsed += data
            self._parse()
        else:
            super().data_received(data)

    def _parse(self) -> None:
        start = 0
        while start < len(self._unparsed) and self._may_read():
            super().data_received(self._unparsed[start : start + PIECE])
            start += PIECE
        self._unparsed = self._unparsed[start:]

    def _may_read(self) -> bool:
        return (self.queue.qsize() < MOST_WAITING and self.writable.is_set()) or self.close_sent

    def _read_or_pause(self) -> None:
        if self._unparsed:
            self._parse()
        if self._may_read() is self.read_paused and not self.transport.is_closing():
            self.read_paused = not self.read_paused
            (self.transport.pause_reading if self.read_paused else self.transport.resume_reading)()

    def send_receive_event_to_app(self) -> None:
        data = b"".join(self.frames)
        self.frames = []
        if self.close_sent or self._ending:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self.conn.fail(1007, "text that is not UTF-8")
                self.handle_parser_exception()
                return
        if self.queue.qsize() >= MOST_WAITING:
            self._read_or_pause()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_or_pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_or_pause()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused or self._unparsed:
            self._read_or_pause()
        return message

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "websocket.send" and self.handshake_complete and not self.close_sent:
            await self._send_frame(message)
        elif kind == "websocket.close" and self._failure:
            self.transport.write(self._failure)
            self.transport.write_eof()  # closed at once, with data on the way in, what was written could be lost
            self.close_sent = True
            self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
            self._read_or_pause()
        else:
            await super().send(message)
            if self._unparsed:
                self._read_or_pause()

    async def _send_frame(self, message: Any) -> None:
        """Send a whole frame; the state of the connection is known here, so `websockets` need not look at it again."""
        if not self.writable.is_set():
            await self.writable.wait()
        if self.disconnected or self.transport.is_closing():
            raise ClientDisconnected
        data = message.get("bytes")
        opcode = BINARY if data is not None else TEXT
        if data is None:
            data = message["text"].encode()
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", opcode, size)
        elif size < 65_536:
            head = struct.pack("!BBH", opcode, 126, size)
        else:
            head = struct.pack("!BBQ", opcode, 127, size)
        self.transport.write(head + data)
