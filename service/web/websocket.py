"""WebSocket connections as streams need them: uvicorn's, with an end that leaves time for last frames.

It knows uvicorn and ASGI, not sessions. Invariants: what a client sent and nobody received yet is bounded, whatever it
sends; nothing is read from a client that does not read what it was sent; no wait for a client lasts longer than it may;
an application that still runs when its client has left is cancelled.

One message is added to ASGI's: `websocket.end` says that the connection ends with the close code it carries; what the
application has not received yet it never will, but it may send last frames before its `websocket.close`.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any, cast

from starlette.types import Message, Receive, Send
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, apply_mask  # type: ignore[attr-defined]  # the compiled one, where there is one
from websockets.protocol import State

from service.web.clients import Clients

log = logging.getLogger("baton.websocket")
log.setLevel(logging.WARNING)  # who connects is told by the access log

IDLE, STUCK, LEFT = "no frame came", "the client does not read", "the client left"  # why a task is cancelled
MAX_WAITING = 8  # frames that wait to be received, until no more is read
PIECE = 8192  # bytes parsed at a time: of very small frames as many come at once as it holds
TEXT, BINARY = 0x81, 0x82  # a whole frame of each kind
GOING_AWAY, ABNORMAL, RESTART = 1001, 1006, 1012


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection of uvicorn's server; the first message may be longer than others by `max_token_bytes`.

    It is counted among its client's when it comes, and no more when it ends.
    """

    def __init__(self, *arguments: Any, max_token_bytes: int, clients: Clients, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clients = clients
        self._max_bytes = self.conn.max_message_size = self.config.ws_max_size + max_token_bytes
        self.logger = self.conn.logger = log
        self._unparsed = b""
        self._task: asyncio.Task[Any] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._failure = b""  # the close frame that answers what is no WebSocket frame, or none that is allowed

    async def run_asgi(self) -> None:
        self._task = asyncio.current_task()
        try:
            await super().run_asgi()
        finally:
            self._task = None
            if not self.disconnected:  # a client that does not read would keep the connection for ever
                self._abort_timer = self.loop.call_later(self.close_timeout, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clients.leave(self.client[0] if self.client is not None else "")
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if self._task is not None:
            self._task.cancel(LEFT)

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

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

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
        if self._is_short_frame(data):
            self.frames = [apply_mask(data[6:], data[2:6])]
            self.curr_msg_data_type = "bytes"
            self.send_receive_event_to_app()
            return
        if self._unparsed or len(data) > PIECE or not self._may_read():
            self._unparsed += data
            self._read_or_pause()
        else:
            super().data_received(data)

    def _is_short_frame(self, data: bytes) -> bool:
        """Tell whether `data` is one short binary message, nothing half read: an eighth of such a stream's cost."""
        return (
            len(data) > 6
            and data[0] == BINARY
            and data[1] == 0x80 + len(data) - 6 < 0xFE
            and not (self._unparsed or self.frames or self.conn.reader.buffer)
            and self.conn.state is State.OPEN
        )

    def _parse(self) -> None:
        came, self._unparsed = self._unparsed, b""
        start = 0
        while start < len(came) and self._may_read() and not self._failure:
            super().data_received(came[start : start + PIECE])
            start += PIECE
        self._unparsed = b"" if self._failure else came[start:]

    def _may_read(self) -> bool:
        if self.handshake_initiated and not self.handshake_complete:
            return False  # what a client sends before it was answered waits for the answer
        return (self.queue.qsize() < MAX_WAITING and self.writable.is_set()) or self.close_sent

    def _read_or_pause(self) -> None:
        if self._unparsed:
            self._parse()
        if self._may_read() is self.read_paused and not self.transport.is_closing():
            self.read_paused = not self.read_paused
            (self.transport.pause_reading if self.read_paused else self.transport.resume_reading)()

    def handle_cont(self, event: Frame) -> None:
        """Join the fragments as they come; a list would grow with their number, which empty ones leave unbounded."""
        (so_far,) = self.frames
        joined: Any = so_far if isinstance(so_far, bytearray) else bytearray(so_far)
        joined += event.data
        self.frames = [joined]
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data = b"".join(self.frames)
        self.frames = []
        if self.close_sent or self._ending:
            return
        if len(data) > self._max_bytes:
            self._fail(1009, f"more than {self._max_bytes} bytes")
            return
        self._max_bytes = self.config.ws_max_size
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self._fail(1007, "text that is not UTF-8")
                return
        if self.queue.qsize() >= MAX_WAITING:
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
            if not self.writable.is_set():
                await self.writable.wait()
            if self.disconnected or self.transport.is_closing():
                raise ClientDisconnected
            self.transport.write(_frame(message))
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


def _frame(message: Any) -> bytes:
    """Return a whole message as one frame; `websockets` makes none once the client broke the protocol."""
    data: bytes | None = message.get("bytes")
    head = BINARY
    if data is None:
        data, head = message["text"].encode(), TEXT
    size = len(data)
    if size < 126:
        return bytes((head, size)) + data
    if size < 65_536:
        return struct.pack("!BBH", head, 126, size) + data
    return struct.pack("!BBQ", head, 127, size) + data


class End(Exception):
    """The connection ends with this close code; there is nobody to be told when the client `left`."""

    def __init__(self, code: int, *, left: bool = False) -> None:
        super().__init__(code)
        self.code, self.left = code, left


class Connection:
    """One connection as its application sees it, to be used by the task that made it."""

    def __init__(self, receive: Receive, send: Send, *, patience_s: float) -> None:
        """Wait for the client, to send or to read, at most `patience_s` at a time, and somewhat more at worst."""
        self._asgi_receive, self._asgi_send = receive, send
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._patience_s, self._waits_for, self._since = patience_s, "", 0.0
        self._timer = self._loop.call_later(patience_s, self._look)

    async def accept(self, subprotocol: str | None) -> None:
        await self._asgi_receive()  # websocket.connect
        await self._asgi_send({"type": "websocket.accept", "subprotocol": subprotocol})

    async def receive(self) -> str | bytes:
        """Return the next frame.

        Raises: End when there is none to come.
        """
        self._waits_for, self._since = IDLE, self._loop.time()
        try:
            message = await self._asgi_receive()
        except asyncio.CancelledError as stop:
            if stop.args != (IDLE,):
                raise
            raise End(GOING_AWAY) from None
        finally:
            self._waits_for = ""
        if message["type"] == "websocket.receive":
            frame: str | bytes = message["bytes"] if "bytes" in message else message["text"]
            return frame
        raise End(message["code"], left=message["type"] == "websocket.disconnect")

    async def send(self, frame: str | bytes) -> None:
        """Send one frame.

        Raises: End when the client left.
        """
        await self._write({"type": "websocket.send", "text" if isinstance(frame, str) else "bytes": frame})

    async def close(self, code: int) -> None:
        await self._write({"type": "websocket.close", "code": code})

    def release(self) -> None:
        """Wait no more; whoever made the connection calls this in the end."""
        self._timer.cancel()

    async def _write(self, message: Message) -> None:
        self._waits_for, self._since = STUCK, self._loop.time()
        try:
            await self._asgi_send(message)
        except ClientDisconnected:
            raise End(ABNORMAL, left=True) from None
        finally:
            self._waits_for = ""

    def _look(self) -> None:
        """See how long the wait under way has lasted; a single timer is cheaper than a timer for each wait."""
        now = self._loop.time()
        until = (self._since if self._waits_for else now) + self._patience_s
        if until <= now:
            assert self._task is not None
            self._task.cancel(self._waits_for)
            until = now + self._patience_s
        self._timer = self._loop.call_at(until, self._look)
