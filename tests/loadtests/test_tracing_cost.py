"""The cost of tracing: what its table says of costs, and that its collector keeps what it is sent."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from loadtests.collector import collecting
from loadtests.tracing import ALL, OFF, TENTH, table


def test_a_ratio_is_of_one_start_and_its_median_is_judged() -> None:
    lines = table({OFF: [100, 200, 400], ALL: [110, 219, 480], TENTH: [100, 202, 404]}).splitlines()
    assert lines[2:] == [
        "| off | 200 us |  |  |  | 100, 200, 400 |",
        "| every request | 219 us | 1.100 | ≤ 1.10 | met | 110, 219, 480 |",
        "| a tenth | 202 us | 1.010 |  |  | 100, 202, 404 |",
    ]
    assert "| 1.200 | ≤ 1.10 | **missed** |" in table({OFF: [100], ALL: [120], TENTH: [100]})


def test_a_collector_keeps_spans_and_nothing_else() -> None:
    spans = [Span(name="one"), Span(name="two")]
    sent = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    with collecting() as collector:
        protobuf = {"content-type": "application/x-protobuf"}
        for path, status in (("/v1/traces", 200), ("/v1/metrics", 404)):
            request = urllib.request.Request(collector.endpoint + path, sent.SerializeToString(), protobuf)
            if status == 200:
                urllib.request.urlopen(request).close()
            else:
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(request)
        assert [span.name for _, span in collector.spans] == ["one", "two"]
