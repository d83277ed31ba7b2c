"""How spans leave: the exporter of OpenTelemetry, with an encoder of its own and less to say.

It knows OTLP, not what spans tell. The library's encoder makes two messages of each attribute of each span; here most
are encoded once, for most spans of a service tell the same. Invariants: whatever a collector does, the log says once
that it is away, with the first reason, and once that spans arrive again; and once that there are more than fit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Status as EncodedStatus
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

log = logging.getLogger("baton.tracing")

LOST = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
UNSET = Status(StatusCode.UNSET)  # that of all spans without an error
KINDS = {SpanKind.SERVER: Span.SPAN_KIND_SERVER, SpanKind.INTERNAL: Span.SPAN_KIND_INTERNAL}
LOCAL = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
REMOTE = LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class Exporter(OTLPSpanExporter):
    """The library's, for spans of one resource and scope, with attributes that are texts and whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._away = self._full = False
        for logger in LOST:
            logging.getLogger(logger).addFilter(self._is_news)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self._client.export(encode(spans)).success:
            return SpanExportResult.FAILURE
        if self._away:
            self._away = self._full = False
            log.info("spans arrive at the collector again")
        return SpanExportResult.SUCCESS

    def _is_news(self, record: logging.LogRecord) -> bool:
        known = self._away
        if str(record.msg).startswith("Queue full"):  # also of a collector that takes spans, but too slowly
            known, self._full = known or self._full, True
        else:
            self._away = True
        return not known


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the request that carries `spans`, at least one, to a collector: what the library's encoder makes of them.

    It is asked for the first, with resource and scope, and for what is rare: links, errors, and vendors' trace states.
    """
    request = encode_spans(spans[:1])
    made = request.resource_spans[0].scope_spans[0].spans
    for span in spans[1:]:
        own, parent = span.context, span.parent
        if span.links or not span.status.is_unset or own.trace_state:
            made.append(encode_spans([span]).resource_spans[0].scope_spans[0].spans[0])
            continue
        one = made.add()
        shared = _head(span.name, span.kind, parent is not None and parent.is_remote)
        one.MergeFromString(b"".join([shared, *[_attribute(*each) for each in (span.attributes or {}).items()]]))
        one.trace_id, one.span_id = own.trace_id.to_bytes(16), own.span_id.to_bytes(8)
        if parent is not None:
            one.parent_span_id = parent.span_id.to_bytes(8)
        one.start_time_unix_nano, one.end_time_unix_nano = span.start_time or 0, span.end_time or 0
    return bytes(request.SerializeToString())


@lru_cache
def _head(name: str, kind: SpanKind, remote: bool) -> bytes:
    """Return what many spans share, as bytes: of messages that stand one behind another the fields add up."""
    flags = REMOTE if remote else LOCAL
    return bytes(Span(name=name, kind=KINDS[kind], flags=flags, status=EncodedStatus()).SerializeToString())


@lru_cache(maxsize=4096)
def _attribute(name: str, value: str | int) -> bytes:
    """Return one attribute of a span, as its bytes."""
    made = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    return bytes(Span(attributes=[KeyValue(key=name, value=made)]).SerializeToString())
