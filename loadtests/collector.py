"""A collector on loopback that keeps the spans it is sent: OTLP over HTTP, as protobuf.

It knows the protocol, not what the spans tell. Invariant: what was answered with 200 is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATH = "/v1/traces"


@dataclass
class Collector:
    """What came so far, undecoded; `endpoint` is what `OTEL_EXPORTER_OTLP_ENDPOINT` should be."""

    endpoint: str
    bodies: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[tuple[Resource, Span]]:
        """Each span, and the resource that sent it."""
        found = []
        for body in self.bodies:
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [(sent.resource, span) for scope in sent.scope_spans for span in scope.spans]
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a thread, and end it on leaving."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        collector = _Handler.collectors[server.server_port] = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
            del _Handler.collectors[server.server_port]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    collectors: dict[int, Collector] = {}  # noqa: RUF012 - by port: a server makes its handlers itself

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        wanted = self.path == PATH and self.headers["content-type"] == "application/x-protobuf"
        if wanted:
            self.collectors[self.connection.getsockname()[1]].bodies.append(body)
        self.send_response(200 if wanted else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...
