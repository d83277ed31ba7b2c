"""WS /v1/stream: one session on one connection, its state kept here until the client asks for a token of it.

Frames are answered one by one, in their order: the next is not looked at before the answer of the last is written, so a
client that does not read holds up nobody but itself. Invariants: a frame is part of the session when it was answered,
and not otherwise; whatever ends a stream but its client, the client gets a token of the last answered step first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

from pydantic_core import to_json
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from service.call import Caller, Service
from service.engine import Answer, Row
from service.errors import (
    BodyTimeout,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    RequestError,
    StateError,
    StateInvalid,
    Unavailable,
)
from service.frames import Opening, StepFrame, checkpoint, opened, read_binary, refusal, write_binary
from service.http import error_response
from service.logs import ACCESS
from service.sessions import Point
from service.steps import read_row, show_step
from service.wire import read_whole

log = logging.getLogger("baton.stream")
access_log = logging.getLogger(ACCESS)

PATH = "/v1/stream"
ACCEPTED = 101
GOING_AWAY, ABNORMAL, POLICY, INTERNAL, TRY_AGAIN = 1001, 1006, 1008, 1011, 1013
STANDARD_CODES = range(1000, 1016)
IDLE, STUCK = "no frame came", "the client does not read"  # why a wait is ended


class Streams:
    """The streams of this process, as an ASGI application; on any other path a WebSocket is refused."""

    def __init__(self, service: Service) -> None:
        self._service, self._open = service, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = Caller(scope, self._service)
        try:
            self._admit(caller, scope["path"])
        except RequestError as error:
            await self._refuse(caller, error, scope, receive, send)
            return
        metrics = self._service.metrics
        self._open += 1
        metrics.streams.inc()
        code = ABNORMAL
        stream = _Stream(caller, receive, send)
        try:
            code = await stream.serve()
        finally:
            self._open -= 1
            metrics.streams.dec()
            metrics.streams_closed.labels(str(code) if code in STANDARD_CODES else "other").inc()
            metrics.requests.labels(PATH, ACCEPTED).inc()
            seconds = time.perf_counter() - caller.started
            told = f"id={caller.request_id} frames={stream.frames} steps={stream.steps}{caller.log}"
            access_log.info(f"WS {PATH} {code} {seconds:.1f}s {told}")

    def _admit(self, caller: Caller, path: str) -> None:
        """Raises: NotFound, Unauthorized, Overloaded, Draining, NotReady."""
        if path != PATH:
            raise NotFound(f"there is no WebSocket here; see {PATH}")
        caller.authenticate()
        self._service.engines.admit("step", rows=0)
        most = self._service.settings.max_streams
        if self._open >= most:
            raise Overloaded(f"{most} streams are open already", limit=most, retry_after_ms=1000)

    async def _refuse(self, caller: Caller, error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
        answer = error_response(caller, error)
        answer.raw_headers.append((b"x-request-id", caller.request_id.encode()))
        await answer(scope, receive, send)
        endpoint = PATH if scope["path"] == PATH else "unmatched"
        seconds = time.perf_counter() - caller.started
        self._service.metrics.answered(endpoint, error.status, seconds)
        access_log.info(
            "WS %s %d %.1fms id=%s %s", endpoint, error.status, 1e3 * seconds, caller.request_id, caller.log
        )


class _End(Exception):
    """The stream ends with this close code, for this reason if any; a client that `left` is told nothing."""

    def __init__(self, code: int, error: RequestError | None = None, *, left: bool = False) -> None:
        super().__init__(code)
        self.code, self.error, self.left = code, error, left


class _Patience:
    """Cancels the current task when one wait of it lasts longer than `limit_s`, with the reason it was given."""

    def __init__(self, limit_s: float) -> None:
        self._loop, self._limit_s = asyncio.get_running_loop(), limit_s
        self._task = asyncio.current_task()
        self._reason, self._since = "", 0.0
        self._timer = self._loop.call_later(limit_s, self._look)

    def begin(self, reason: str) -> None:
        self._reason, self._since = reason, self._loop.time()

    def stop(self) -> None:
        self._reason = ""

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        until = (self._since if self._reason else now) + self._limit_s
        if until <= now:
            assert self._task is not None
            self._task.cancel(self._reason)
            until = now + self._limit_s
        self._timer = self._loop.call_at(until, self._look)


class _Stream:
    """One connection from its first frame to its last; `frames` answered and `steps` taken so far."""

    def __init__(self, caller: Caller, receive: Receive, send: Send) -> None:
        self._caller, self._service = caller, caller.service
        self._asgi_receive, self._asgi_send = receive, send
        self._timeout_s = self._service.settings.timeout_ms / 1000
        self._patience = _Patience(self._service.settings.stream_idle_s)
        self._point: Point | None = None
        self._carried = 0  # the step at which the client was last given a token, or came with one
        self._last_only, self._checkpoint_every = True, math.inf
        self.frames = self.steps = 0

    async def serve(self) -> int:
        """Serve the stream to its end and return its close code."""
        try:
            await self._asgi_receive()  # websocket.connect
            request_id = (b"x-request-id", self._caller.request_id.encode())
            await self._asgi_send({"type": "websocket.accept", "headers": [request_id]})
            end = await self._serve_frames()
            if not end.left:
                await self._finish(end)
            return end.code
        except ClientDisconnected:
            return ABNORMAL
        except asyncio.CancelledError as stop:
            self._caller.log += f" cut off: {stop}"
            return ABNORMAL
        finally:
            self._patience.end()

    async def _serve_frames(self) -> _End:
        try:
            point = await self._open()
            while True:
                point = await self._answer(await self._receive(), point)
        except _End as end:
            return end
        except RequestError as error:
            return _End(_close_code(error), error)
        except ClientDisconnected:
            return _End(ABNORMAL, left=True)
        except Exception:  # the last place that can still tell the client
            log.exception("stream %s failed", self._caller.request_id)
            return _End(INTERNAL, InternalError("the service failed; the log has the cause"))

    async def _finish(self, end: _End) -> None:
        """Send the last token, the reason and the close frame."""
        if self._point is not None and self._point.step > self._carried:
            try:
                await self._checkpoint(self._point)
            except RequestError as failure:
                log.error("stream %s ends without its last checkpoint: %s", self._caller.request_id, failure)
        if end.error is not None:
            self._caller.log += f" code={end.error.code} message={str(end.error)!r}"
            self._service.metrics.refused(end.error.code)
            await self._send_refusal(end.error)
        await self._asgi_send({"type": "websocket.close", "code": end.code})

    async def _open(self) -> Point:
        """Return where the session begins, once the client was told.

        Raises: RequestError, when it cannot begin.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                first = await self._receive()
        except TimeoutError:
            limit = self._service.settings.timeout_ms
            raise BodyTimeout(f"the first frame did not arrive within {limit} ms", limit=limit) from None
        if isinstance(first, bytes):
            raise InvalidRequest('the first frame is binary; begin with a text frame, {"model": ...}')
        wanted = read_whole(Opening, first)
        start = await self._start(wanted)
        self._caller.log = f" model={wanted.model}"
        self._point, self._carried = start, start.step
        self._last_only = wanted.returned == "last"
        self._checkpoint_every = wanted.checkpoint_every or math.inf
        await self._send_json(opened(start))
        return start

    async def _start(self, wanted: Opening) -> Point:
        sessions, tenant = self._service.sessions, self._caller.tenant
        newest = self._service.engines.for_task(wanted.model, "step")
        if "state" not in wanted.model_fields_set:
            return sessions.begin(newest)
        if wanted.state is None:
            message = "state is null; leave the member out to begin a new session"
            start: Point | StateError = StateInvalid(message, reason="null")
        else:
            (start,) = await sessions.resume([wanted.state], model=wanted.model, tenant=tenant)
        if isinstance(start, StateError):
            start.field = "state"
            self._service.metrics.tokens_rejected.labels(start.reason).inc()
            raise start
        return start

    async def _answer(self, frame: str | bytes, start: Point) -> Point:
        """Answer one frame, in its place even when it is refused for what it holds; return where the session is then.

        Raises: RequestError for what is not the frame's fault.
        """
        try:
            if isinstance(frame, bytes):
                point, wants_token = await self._answer_binary(frame, start), False
            else:
                point, wants_token = await self._answer_text(frame, start)
        except RequestError as error:
            if isinstance(error, Unavailable | StateError):
                raise
            self._service.metrics.item_errors.labels(error.code).inc()
            await self._send_refusal(error)
            return start
        finally:
            self.frames += 1
            self._service.metrics.stream_frames.inc()
        if wants_token or point.step - self._carried >= self._checkpoint_every:
            await self._checkpoint(point)
        return point

    async def _answer_binary(self, frame: bytes, start: Point) -> Point:
        row = read_binary(frame, start, self._service.settings)
        answer, point = await self._run(row, start)
        await self._send({"type": "websocket.send", "bytes": write_binary(start.engine, answer, self._last_only)})
        return point

    async def _answer_text(self, frame: str, start: Point) -> tuple[Point, bool]:
        given = read_whole(StepFrame, frame)
        if given.checkpoint and not given.has_steps:
            if start.state is None:
                raise InvalidRequest("the session has taken no step yet, so there is no state", field="checkpoint")
            return start, True
        row, member = read_row(given, start, self._service.settings)
        try:
            answer, point = await self._run(row, start)
        except RequestError as error:
            error.field = error.field or member
            raise
        shown = show_step(start, row, answer, last_only=self._last_only)
        await self._send_json({"type": "step", "step": point.step, **shown})
        return point, given.checkpoint

    async def _run(self, row: Row, start: Point) -> tuple[Answer, Point]:
        """Run the steps and go on to the point that they lead to; a full queue is waited for.

        Raises: what the batcher raises, and what became of the row.
        """
        batcher = start.engine.batcher
        left_s = await batcher.admit_in_time(1, timeout_s=self._timeout_s)
        submission = batcher.enqueue([row], timeout_s=left_s)
        try:
            (outcome,) = (await batcher.answer(submission)).outcomes
        finally:
            batcher.abandon(submission)
        if isinstance(outcome, Exception):
            raise outcome
        steps = len(row.steps)
        self._point = point = start.after(steps, outcome.state)
        self.steps += steps
        return outcome, point

    async def _checkpoint(self, point: Point) -> None:
        (carried,) = await self._service.sessions.hand_out([point], tenant=self._caller.tenant)
        self._carried = point.step
        await self._send_json(checkpoint(point, carried))

    async def _send_refusal(self, error: RequestError) -> None:
        step = 0 if self._point is None else self._point.step
        await self._send_json(refusal(error, self._caller.request_id, step))

    async def _receive(self) -> str | bytes:
        """Return the next frame.

        Raises: _End when there will be none.
        """
        self._patience.begin(IDLE)
        try:
            message = await self._asgi_receive()
        except asyncio.CancelledError as stop:
            if stop.args != (IDLE,):
                raise
            raise _End(GOING_AWAY) from None
        self._patience.stop()
        if message["type"] == "websocket.receive":
            frame: str | bytes = message["bytes"] if "bytes" in message else message["text"]
            return frame
        raise _End(message["code"], left=message["type"] == "websocket.disconnect")

    async def _send_json(self, content: dict[str, Any]) -> None:
        await self._send({"type": "websocket.send", "text": to_json(content, bytes_mode="base64").decode()})

    async def _send(self, message: Message) -> None:
        self._patience.begin(STUCK)
        await self._asgi_send(message)
        self._patience.stop()


def _close_code(error: RequestError) -> int:
    if isinstance(error, Unavailable):
        return INTERNAL if isinstance(error, InternalError) else TRY_AGAIN
    return POLICY
