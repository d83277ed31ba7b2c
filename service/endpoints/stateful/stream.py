"""WS /v1/stream: one session on one connection, its state kept here until the client asks for a token of it.

Frames are answered one by one, in their order: the next is not looked at before the answer of the last is written, so a
client that does not read holds up nobody but itself. Invariants: a frame is part of the session when it was answered,
and not otherwise; whatever ends a stream but its client, the client gets a token of the last answered step first, or
is told why there is none.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from service.contract.manifest import Task
from service.endpoints.stateful.frames import Opening, StepFrame, checkpoint, opened, read_binary, refusal, write_binary
from service.endpoints.stateful.seats import Seats
from service.endpoints.stateful.starts import find_first, find_starts
from service.endpoints.stateful.step_json import read_row, show_step
from service.engine.rows import Answer, Row
from service.errors import (
    BodyTimeout,
    InternalError,
    InvalidRequest,
    PrecisionTooLow,
    RequestError,
    StateError,
    StateFromFuture,
    Unavailable,
)
from service.state.sessions import Hold, Point, Precision
from service.web.auth import PROTOCOL
from service.web.context import Caller, Service, Work, caller_of
from service.web.schema import read_whole
from service.web.websocket import ABNORMAL, Connection, End

log = logging.getLogger("baton.stream")

TASK: Task = "step"
PATH = "/v1/stream"
POLICY, INTERNAL, TRY_AGAIN = 1008, 1011, 1013
FAILED = "the service failed; the log has the cause"
OUR_CODES, OTHER = range(1000, 1016), "other"  # the clients' own, 3000 and up


class Streams:
    """The streams of this process, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service, self._seats = service, Seats(service.settings)
        self._closed = service.metrics.streams_closed
        for code in (*OUR_CODES, OTHER):
            self._closed.labels(code)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises: Draining, NotReady, Overloaded, QuotaExceeded."""
        caller, metrics, code = caller_of(scope), self._service.metrics, ABNORMAL
        self._service.engines.admit(TASK, caller.tenant, rows=0)  # a full queue is waited for, frame by frame
        seat = caller.tenant if caller.is_known else None
        self._seats.take(seat)
        connection = Connection(receive, send, patience_s=self._service.settings.stream_idle_s)
        stream = _Stream(caller, connection, self._seats, seat)
        metrics.streams.inc()
        try:
            await connection.accept(PROTOCOL if PROTOCOL in caller.protocols else None)
            code = await stream.serve()
        except asyncio.CancelledError as stop:
            caller.facts["note"] = f"cut off: {stop}"
        finally:
            connection.release()
            self._seats.leave(stream.seat)
            metrics.streams.dec()
            self._closed.labels(code if code in OUR_CODES else OTHER).inc()
            caller.facts = {"close": code, "frames": stream.frames, "steps": stream.steps, **caller.facts}


class _Stream:
    """One connection from its first frame to its last; `frames` answered and `steps` taken so far.

    Its `seat` may become another among `seats`, when its client shows a key.
    """

    def __init__(self, caller: Caller, connection: Connection, seats: Seats, seat: str | None) -> None:
        self._seats, self.seat = seats, seat
        self._caller, self._service, self._connection = caller, caller.service, connection
        self._tracer = self._service.tracer
        self._timeout_s = self._service.settings.timeout_ms / 1000
        self._point: Point | None = None  # after the last answered frame
        self._carried = 0  # the step at which the client was last given a token, or came with one
        self._last_only, self._checkpoint_every = True, math.inf
        self._hold: Hold | None = None
        self._precision: Precision = "float32"
        self._refused: RequestError | None = None  # for the frame's span
        self.frames = self.steps = 0

    async def serve(self) -> int:
        """Serve the stream to its end and return its close code."""
        try:
            code, error = await self._serve_frames()
            await self._finish(error)
            await self._connection.close(code)
        except End as end:
            return end.code
        return code

    async def _serve_frames(self) -> tuple[int, RequestError | None]:
        """Answer frames until the end; return its close code, and the reason if there is something to tell.

        Raises: End when the client left.
        """
        error: RequestError
        try:
            point = await self._open()
            while True:
                frame = await self._connection.receive()
                await self._caller.call_again(timeout_s=self._timeout_s)
                with self._traced("frame"):
                    point = await self._answer(frame, point)
        except End as end:
            if end.left:
                raise
            return end.code, None
        except RequestError as failure:
            error = failure
        except Exception:  # the last place that can still tell the client
            log.exception("stream %s failed", self._caller.request_id)
            error = InternalError(FAILED)
        return _close_code(error), error

    async def _finish(self, error: RequestError | None) -> None:
        """Send the last token, where the session can still go on, and the reason."""
        if self._point is not None and self._point.step > self._carried and not isinstance(error, StateError):
            try:
                await self._send_best(self._point, self._hold, "client")
            except RequestError as failure:
                log.warning("stream %s ends without its last checkpoint: %s", self._caller.request_id, failure.code)
                error = error or failure
        if error is not None:
            self._service.metrics.refused(error.code)
            self._caller.fail(error)
            await self._refuse(error, final=True)

    async def _open(self) -> Point:
        """Return where the session begins, once the client was told.

        Raises: RequestError when it cannot begin.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                first = await self._connection.receive()
        except TimeoutError:
            limit = self._service.settings.timeout_ms
            raise BodyTimeout(f"the first frame did not arrive within {limit} ms", limit=limit) from None
        if isinstance(first, bytes):
            raise InvalidRequest('the first frame is binary; begin with a text frame, {"model": ...}')
        with self._traced("opening"):
            return await self._begin(first)

    async def _begin(self, first: str) -> Point:
        """Raises: RequestError when the session cannot begin as the opening frame asks."""
        wanted = read_whole(Opening, first)
        await self._know(wanted.key)
        start = await self._start(wanted)
        self._service.sessions.holds(start, wanted.hold, wanted.precision)  # refuse at once what cannot be handed out
        self._hold, self._precision = wanted.hold, wanted.precision
        self._caller.facts["model"] = start.engine.manifest.name
        self._point, self._carried = start, start.step
        self._last_only = wanted.returned == "last"
        self._checkpoint_every = wanted.checkpoint_every or math.inf
        await self._send(opened(start))
        return start

    async def _know(self, key: str | None) -> None:
        """Know the client by the key of its first frame, where its head held none.

        Raises: Unauthorized, RateLimited, InvalidRequest, Overloaded, QuotaExceeded.
        """
        if self._caller.key is not None and key is not None:
            raise InvalidRequest("the key came in the head already", field="key")
        if not self._caller.is_known:
            await self._caller.show(key or "")
            self._seats.change(self.seat, self._caller.tenant)
            self.seat = self._caller.tenant

    @contextmanager
    def _traced(self, name: str) -> Iterator[None]:
        """Trace what is done inside as a frame, whatever becomes of it."""
        if self._tracer is None:
            yield
            return
        self._caller.work, self._refused = Work(time.monotonic()), None
        try:
            yield
        except Exception as failure:
            if not isinstance(failure, End):
                self._refused = failure if isinstance(failure, RequestError) else InternalError(FAILED)
            raise
        finally:
            self._tracer.end_frame(self._caller, name, self._refused)

    async def _start(self, wanted: Opening) -> Point:
        if wanted.version is not None:
            return await find_first(self._caller, TASK, wanted.model, wanted.version, wanted)
        _, (start,) = await find_starts(self._caller, TASK, wanted.model, [wanted])
        if isinstance(start, StateError):
            self._service.metrics.tokens_rejected.labels(start.reason).inc()
        if isinstance(start, RequestError):
            raise start
        return start

    async def _answer(self, frame: str | bytes, start: Point) -> Point:
        """Answer one frame, and return where the session is then. A refusal is an answer, too.

        Raises: RequestError for what is not the frame's fault.
        """
        wants_token = False
        try:
            if isinstance(frame, bytes):
                row = read_binary(frame, start, self._service.settings)
                answer, point = await self._run(row, start)
                await self._connection.send(write_binary(start.engine, answer, self._last_only))
            else:
                point, wants_token = await self._answer_text(frame, start)
        except RequestError as error:
            if isinstance(error, Unavailable | StateError):
                raise
            await self._refuse_in_place(error)
            point = start
        self._point = point
        self.frames += 1
        self.steps += point.step - start.step
        self._service.metrics.stream_frames.inc()
        await self._checkpoint_in_place(point, wanted=wants_token)
        return point

    async def _answer_text(self, frame: str, start: Point) -> tuple[Point, bool]:
        """Return where the session is then, and whether a checkpoint of it is wanted."""
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
        await self._send({"type": "step", "step": point.step, **shown})
        return point, given.checkpoint

    async def _run(self, row: Row, start: Point) -> tuple[Answer, Point]:
        """Run the row; return its answer, and the point that its steps lead to. A full queue is waited for.

        Raises: what the batcher raises, and what became of the row.
        """
        batcher, tenant = start.engine.batcher, self._caller.tenant
        left_s = await batcher.wait_for_room(tenant, timeout_s=self._timeout_s)
        with batcher.submit([row], tenant=tenant, timeout_s=left_s) as answer:
            served = await answer
        if self._tracer is not None:
            self._caller.work.runs.append((start.engine, served.timing))
        (outcome,) = served.outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome, start.after(len(row.steps), outcome.state)

    async def _checkpoint_in_place(self, point: Point, *, wanted: bool) -> None:
        """Send a checkpoint where the client wants it, or where it is due.

        What the client wants is sent as it was asked for or not at all. What is due is sent as it can be made, and
        stays due when it cannot be made now.

        Raises: StateError when the session cannot go on.
        """
        try:
            if wanted:
                await self._send_checkpoint(point, self._hold, self._precision, asked=True)
            elif point.step - self._carried >= self._checkpoint_every:
                await self._send_best(point, self._hold)
        except RequestError as error:
            if isinstance(error, StateError):
                raise
            if wanted:
                await self._refuse_in_place(error)

    async def _send_best(self, point: Point, *holds: Hold | None) -> None:
        """Send a checkpoint by the first of `holds` that works, in full precision where the stream's is too low.

        Raises: why the first cannot, when none can.
        """
        refusals = []
        for hold in dict.fromkeys(holds):
            try:
                try:
                    return await self._send_checkpoint(point, hold, self._precision)
                except PrecisionTooLow:
                    return await self._send_checkpoint(point, hold, "float32")
            except RequestError as refusal:
                refusals.append(refusal)
        raise refusals[0]

    async def _send_checkpoint(
        self, point: Point, hold: Hold | None, precision: Precision, *, asked: bool = False
    ) -> None:
        """Raises: what `Sessions.hand_out` returns."""
        (carried,) = await self._caller.hand_out([point], hold=hold, precision=precision)
        if isinstance(carried, RequestError):
            raise carried
        await self._send(checkpoint(point, carried, asked=asked))
        self._carried = point.step

    async def _refuse_in_place(self, error: RequestError) -> None:
        self._refused = error
        self._service.metrics.item_errors.labels(error.code).inc()
        await self._refuse(error, final=False)

    async def _refuse(self, error: RequestError, *, final: bool) -> None:
        step = 0 if self._point is None else self._point.step
        await self._send(refusal(error, self._caller.request_id, step, final=final))

    async def _send(self, content: dict[str, Any]) -> None:
        await self._connection.send(to_json(content, bytes_mode="base64").decode())


def _close_code(error: RequestError) -> int:
    if isinstance(error, Unavailable | StateFromFuture):
        return INTERNAL if isinstance(error, InternalError) else TRY_AGAIN
    return POLICY
