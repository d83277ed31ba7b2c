"""Traces of requests over OTLP: the only module that knows OpenTelemetry, imported where tracing is on.

Spans are made when a request has ended, of what was measured on its way, so that nothing on that way knows of them.
They are made without a `Tracer` of the SDK, whose spans, made to be changed from anywhere, cost nine times as much;
sampler, resource, batches and exporter are the SDK's, and set by its variables. Invariants: no span holds a
body, a token or a key; no request waits for a collector, or fails with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
    HttpRequestMethodValues,
)
from opentelemetry.semconv.attributes.service_attributes import SERVICE_NAME, SERVICE_VERSION
from opentelemetry.semconv.attributes.url_attributes import URL_SCHEME
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.errors import RequestError, SettingsError
from service.web.context import UNMATCHED, Caller, Work
from service.web.exporting import UNSET, Exporter
from service.web.request_lines import code_of
from service.web.trace_variables import why_off

log = logging.getLogger("baton.tracing")

Attributes = dict[str, str | int]

FLUSH_S = 5.0  # for the last spans at the end of a worker, whatever the collector does
SCOPE = InstrumentationScope("baton", __version__, [*Schemas][-1].value)
METHODS = {method.value for method in HttpRequestMethodValues} - {HttpRequestMethodValues.OTHER.value}
TOLD = ("failed", "close", "frames", "steps")  # facts of a request that its span tells, too
PROPAGATOR = TraceContextTextMapPropagator()
NO_CONTEXT = Context()


class Place(NamedTuple):
    """The name of a span, and where it stands in its trace."""

    name: str
    own: SpanContext
    parent: SpanContext | None


class CallerSpan(ReadableSpan):
    """The span of a request, of a connection or of a frame, and the `work` of which its children are made."""

    def __init__(self, place: Place, times: tuple[float, float], work: Work, **options: Any) -> None:
        self._zero_ns = time.time_ns() - round(1e9 * time.monotonic())  # when the clock of the measured times was 0
        began_ns, ended_ns = self._wall_ns(times)
        super().__init__(
            *place,
            kind=SpanKind.SERVER,
            start_time=began_ns,
            end_time=ended_ns,
            instrumentation_scope=SCOPE,
            **options,
        )
        self._work = work

    def unfold(self, ids: IdGenerator) -> Iterator[ReadableSpan]:
        """Yield the children, in the order of the work, and the span itself."""
        own = self.context
        for name, times, attributes in _children(self._work):
            context = SpanContext(own.trace_id, ids.generate_span_id(), False, own.trace_flags, own.trace_state)
            began_ns, ended_ns = self._wall_ns(times)
            yield ReadableSpan(
                name,
                context,
                own,
                self.resource,
                attributes,
                start_time=began_ns,
                end_time=ended_ns,
                instrumentation_scope=SCOPE,
            )
        yield self

    def _wall_ns(self, times: tuple[float, float]) -> tuple[int, int]:
        return self._zero_ns + round(1e9 * times[0]), self._zero_ns + round(1e9 * times[1])


class Unfolding(SpanExporter):
    """Makes the children of each caller's span on the thread that sends them, and gives them all to `exporter`."""

    def __init__(self, exporter: SpanExporter, ids: IdGenerator) -> None:
        self._exporter, self._ids = exporter, ids

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        callers = cast(Sequence[CallerSpan], spans)
        return self._exporter.export([each for span in callers for each in span.unfold(self._ids)])

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Tracer:
    """Gives spans to `exporter` by the way that `process` makes; sampler and resource are those of `provider`."""

    def __init__(
        self,
        exporter: SpanExporter,
        provider: TracerProvider,
        process: Callable[[SpanExporter], SpanProcessor] = BatchSpanProcessor,
    ) -> None:
        self._sampler, self._resource, self._ids = provider.sampler, provider.resource, provider.id_generator
        self._processor = process(Unfolding(exporter, self._ids))
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # its warnings quote clients' trace states

    def end_request(self, caller: Caller, status: int) -> None:
        """Trace a request, or a WebSocket's connection, that ends now with `status`, and set the caller's trace id."""
        place = self._place_of(caller)
        if place.own.trace_flags.sampled:
            attributes, code = _request_attributes(caller, status), code_of(caller.facts, status)
            self._end(place, caller, caller.started, attributes, code, _status(caller.failure, status))

    def end_frame(self, caller: Caller, name: str, error: RequestError | None) -> None:
        """Trace a frame of the caller's stream that ends now, refused by `error` if any, and begin its work anew.

        Each frame is a trace of its own, linked to the connection's: that one ends when the stream does, perhaps in
        days, and a backend holds a trace of a million spans badly. A client that does not sample is followed here, too.
        """
        connection = self._place_of(caller)
        links = [Link(connection.own)]
        place = self._new_place(f"{name} {caller.endpoint}", NO_CONTEXT, links)
        wanted = connection.parent is None or connection.own.trace_flags.sampled
        if wanted and place.own.trace_flags.sampled:
            code = None if error is None else error.code
            self._end(place, caller, caller.work.began, {}, code, _status(error, HTTPStatus.OK), links)
        caller.work = Work(caller.started)

    async def close(self) -> None:
        """Send what is left, or give it up after `FLUSH_S`."""
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, FLUSH_S)
        if closing.is_alive():
            log.warning("the collector did not take the last spans within %g s; they are lost", FLUSH_S)

    def _place_of(self, caller: Caller) -> Place:
        """Return the place of the span of the caller's request or connection, the same each time."""
        place: Place | None = caller.span
        if place is None:
            place = caller.span = self._new_place(_name(caller), _context(caller))
            caller.trace_id = trace.format_trace_id(place.own.trace_id)
        return place

    def _new_place(self, name: str, context: Context, links: Sequence[Link] = ()) -> Place:
        """Return a new place in the trace of `context`, or in a new one, with the sampler's decision in its flags."""
        parent = trace.get_current_span(context).get_span_context()
        trace_id = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        decided = self._sampler.should_sample(context, trace_id, name, SpanKind.SERVER, None, links)
        flags = TraceFlags.SAMPLED if decided.decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
        if parent.trace_flags.random_trace_id if parent.is_valid else self._ids.is_trace_id_random():
            flags |= TraceFlags.RANDOM_TRACE_ID
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, TraceFlags(flags), decided.trace_state)
        return Place(name, own, parent if parent.is_valid else None)

    def _end(
        self,
        place: Place,
        caller: Caller,
        began: float,
        attributes: Attributes,
        code: str | None,
        status: int,
        links: Sequence[Link] = (),
    ) -> None:
        attributes |= _work_attributes(caller.work)
        if caller.tenant:
            attributes["baton.tenant"] = caller.tenant
        if code is not None:
            attributes["baton.code"] = code
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if failed:
            attributes[ERROR_TYPE] = code or "internal"
        span = CallerSpan(
            place,
            (began, time.monotonic()),
            caller.work,
            resource=self._resource,
            attributes=attributes,
            links=links,
            status=Status(StatusCode.ERROR, code) if failed else UNSET,
        )
        self._processor.on_end(span)


def open_tracer(worker: int) -> Tracer | None:
    """Return the tracer of a worker, as the environment wants it; None where that wants no traces.

    Raises: SettingsError for variables that do not go together.
    """
    if reason := why_off():
        log.warning("%s, so nothing is traced", reason)
        return None
    own = Resource.create({SERVICE_NAME: "baton", SERVICE_VERSION: __version__, "baton.worker": worker})
    try:
        provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        return Tracer(Exporter(), provider)
    except ValueError as failure:
        raise SettingsError(f"an OTEL_* variable cannot be used: {failure}") from failure


def _context(caller: Caller) -> Context:
    """Return the trace that the caller's request says it is part of."""
    if b"traceparent" not in caller.fields:
        return NO_CONTEXT
    carrier = {
        name: [value.decode("latin-1") for field, value in caller.heads if field == name.encode()]
        for name in PROPAGATOR.fields
    }
    return PROPAGATOR.extract(carrier, NO_CONTEXT) if len(carrier["traceparent"]) == 1 else NO_CONTEXT


def _status(error: RequestError | None, otherwise: int) -> int:
    return otherwise if error is None else error.status


def _method(caller: Caller) -> str:
    return "GET" if caller.verb == "WS" else caller.verb


def _name(caller: Caller) -> str:
    """Return a name that tells of few kinds of requests, whatever clients ask for."""
    method = _method(caller) if _method(caller) in METHODS else "HTTP"
    return method if caller.endpoint == UNMATCHED else f"{method} {caller.endpoint}"


def _request_attributes(caller: Caller, status: int) -> Attributes:
    """Return what the conventions for HTTP servers ask for but the path, and what the log tells.

    A client may write anything into a path; the route tells what was asked.
    """
    attributes: Attributes = {
        HTTP_REQUEST_METHOD: _method(caller),
        URL_SCHEME: caller.scheme,
        HTTP_RESPONSE_STATUS_CODE: status,
    }
    if attributes[HTTP_REQUEST_METHOD] not in METHODS:
        attributes[HTTP_REQUEST_METHOD_ORIGINAL] = caller.verb
        attributes[HTTP_REQUEST_METHOD] = HttpRequestMethodValues.OTHER.value
    if caller.endpoint != UNMATCHED:
        attributes[HTTP_ROUTE] = caller.endpoint
    for name in TOLD:
        if caller.facts.get(name):
            attributes[f"baton.{name}"] = caller.facts[name]
    return attributes


def _work_attributes(work: Work) -> Attributes:
    """Return what ran, all runs together; of several versions the first."""
    if not work.runs:
        return {}
    manifest = work.runs[0][0].manifest
    return {
        "baton.model": manifest.name,
        "baton.version": manifest.version,
        "baton.rows": sum(timing.rows for _, timing in work.runs),
        "baton.steps": sum(timing.cells for _, timing in work.runs),
        "baton.batch_rows": max(timing.batch_rows for _, timing in work.runs),
    }


def _children(work: Work) -> Iterator[tuple[str, tuple[float, float], Attributes]]:
    """Yield name, begin and end, and attributes of the spans of `work`, in their order.

    A shared run is a child of each request in it, so that a trace can be read, and sampled, without the others.
    """
    for _, timing in work.runs:
        started = timing.submitted + timing.queue_s
        yield "wait", (timing.submitted, started), {}
        if timing.batch_rows:
            told: Attributes = {
                "baton.rows": timing.rows,
                "baton.steps": timing.cells,
                "baton.padded_steps": timing.padded_cells,
                "baton.batch_rows": timing.batch_rows,
            }
            yield "run", (started, started + timing.run_s), told
    for part in work.parts:
        yield part.name, (part.began, part.ended), {"baton.tokens": part.tokens}
