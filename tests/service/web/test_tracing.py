"""Traces, in process: what spans tell, whose children they are, and what is never in them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from fastapi import FastAPI
from here import Clock, serve_here, vouched
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import StoreUnavailable
from service.settings import Settings
from service.web import tracing
from service.web.access_log import ACCESS
from service.web.exporting import LOST, Exporter, encode
from service.web.tracing import Tracer

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
SECRET = "verysecretword"


def provider(**options: Any) -> TracerProvider:
    return TracerProvider(resource=Resource({"service.name": "tested"}), shutdown_on_exit=False, **options)


@dataclass
class Traced:
    """A service in this process, a client of it, and the spans that it has made."""

    client: httpx.AsyncClient
    app: FastAPI
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny.sentiment(root)
    tiny.stepper(root)
    return root


@pytest.fixture
async def traced(models: Path, tmp_path: Path) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, provider(), SimpleSpanProcessor)
    settings = Settings(models_dir=models, state_dir=tmp_path, run_threads=1)
    async with serve_here(settings, Clock(), tracer) as (client, app):
        yield Traced(client, app, exporter)


def children(spans: tuple[ReadableSpan, ...], parent: ReadableSpan) -> list[str]:
    return [span.name for span in spans if span.parent == parent.context]


async def test_a_request_is_a_span_with_its_wait_and_its_run_below(traced: Traced) -> None:
    answer = await traced.client.post("/v1/sentiment", json={"inputs": ["a good film", "bad"]})
    request, wait, run = (traced.named(name) for name in ("POST /v1/sentiment", "wait", "run"))
    assert (request.kind, request.parent, request.status.status_code) == (SpanKind.SERVER, None, StatusCode.UNSET)
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "http.route": "/v1/sentiment",
        "baton.model": "sentiment",
        "baton.version": "1",
        "baton.rows": 2,
        "baton.steps": 4,
        "baton.batch_rows": 1,  # of unlike length
    }
    assert {f"baton.{name}": count for name, count in answer.json()["usage"].items()} == dict(run.attributes)
    assert children(traced.spans, request) == ["wait", "run"]
    assert {span.context.trace_id for span in traced.spans} == {request.context.trace_id}
    assert len({span.context.span_id for span in traced.spans}) == 3
    assert request.start_time <= wait.start_time <= wait.end_time == run.start_time <= run.end_time <= request.end_time
    assert request.resource.attributes["service.name"] == "tested"
    took_ms = answer.json()["timing_ms"]
    assert (run.end_time - run.start_time) / 1e6 == pytest.approx(took_ms["run"], abs=1e-3)


async def test_a_step_with_a_token_is_opened_run_and_sealed(traced: Traced) -> None:
    first = (await traced.client.post("/v1/step", json=STEP)).json()["results"][0]
    assert [span.name for span in traced.spans] == ["wait", "run", "seal", "POST /v1/step"]
    traced.exporter.clear()
    body = {"model": "stepper", "items": [{"inputs": [[1, 2]], "state": first["state"]}] * 2}
    await traced.client.post("/v1/step", json=body)
    assert children(traced.spans, traced.named("POST /v1/step")) == ["wait", "run", "open", "seal"]
    opened, sealed = traced.named("open"), traced.named("seal")
    assert opened.attributes["baton.tokens"] == sealed.attributes["baton.tokens"] == 2
    assert opened.end_time <= traced.named("wait").start_time
    assert traced.named("run").end_time <= sealed.start_time
    traced.exporter.clear()
    moved = {"model": "stepper", "items": [{"state": first["state"]}], "hold": "server"}
    await traced.client.post("/v1/state", json=moved)
    assert [span.name for span in traced.spans] == ["open", "seal", "POST /v1/state"]


async def test_a_step_over_v2_is_traced_alike(traced: Traced) -> None:
    tensor = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
    await traced.client.post("/v2/models/stepper/infer", json={"inputs": [tensor]})
    request = traced.named("POST /v2/models/{name}/infer")
    assert request.attributes["http.route"] == "/v2/models/{name}/infer"
    assert children(traced.spans, request) == ["wait", "run", "seal"]


async def test_a_trace_that_a_client_began_goes_on(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    request = traced.named("POST /v1/sentiment")
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.context.trace_state.to_header() == "vendor=1"
    assert f" trace={TRACE} items=1 failed=0" in caplog.records[-1].getMessage()


async def test_a_trace_state_in_several_fields_is_one(traced: Traced) -> None:
    headers = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "first=1"), ("tracestate", "second=2")]
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    assert traced.named("POST /v1/sentiment").context.trace_state.to_header() == "first=1,second=2"


async def test_two_headers_that_name_a_trace_name_none(traced: Traced) -> None:
    headers = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("traceparent", f"00-{PARENT * 2}-{PARENT}-01")]
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    assert traced.named("POST /v1/sentiment").parent is None


async def test_no_line_quotes_a_trace_state(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    for state in (SECRET, f"{SECRET}=1,{SECRET}=2", f"a={SECRET}é"):
        headers = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode(), b"tracestate": state.encode("latin-1")}
        await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    assert SECRET not in caplog.text


async def test_what_the_client_did_not_sample_leaves_its_trace_s_id_alone(
    traced: Traced, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    assert traced.spans == ()
    assert f" trace={TRACE} " in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nothing",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}",
        "é" * 9,
        "9" * 999,
    ],
)
async def test_a_header_that_names_no_trace_begins_one(traced: Traced, header: str) -> None:
    headers = {b"traceparent": header.encode("latin-1"), b"tracestate": b"=,;=\xe9"}
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers)
    request = traced.named("POST /v1/sentiment")
    assert request.parent is None
    assert f"{request.context.trace_id:032x}" != TRACE


async def test_a_refusal_is_no_failure_and_tells_its_code(traced: Traced) -> None:
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"], "model": "nobody"})
    await traced.client.request("STEAL", "/nowhere")
    unknown, nowhere = traced.named("POST /v1/sentiment"), traced.named("HTTP")
    assert unknown.attributes["baton.code"] == "unknown_model"
    assert nowhere.attributes["http.request.method"] == "_OTHER"
    assert nowhere.attributes["http.request.method_original"] == "STEAL"
    assert (nowhere.attributes["baton.code"], "http.route" in nowhere.attributes) == ("not_found", False)
    assert unknown.status.status_code is nowhere.status.status_code is StatusCode.UNSET


async def test_a_failure_is_one_in_its_span(traced: Traced) -> None:
    @traced.app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("a cause")

    assert (await traced.client.get("/v1/broken")).status_code == 500
    request = traced.named("GET /v1/broken")
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, "internal")
    assert request.attributes["error.type"] == request.attributes["baton.code"] == "internal"


async def test_an_answer_that_fails_on_its_way_is_a_failure_whatever_its_status(traced: Traced) -> None:
    @traced.app.get("/v1/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("a cause")

        return StreamingResponse(parts())

    with pytest.raises(RuntimeError, match="a cause"):
        await traced.client.get("/v1/half")
    request = traced.named("GET /v1/half")
    assert request.attributes["http.response.status_code"] == 200
    assert (request.status.status_code, request.attributes["baton.code"]) == (StatusCode.ERROR, "internal")


async def test_a_request_that_was_not_run_in_time_shows_its_wait(traced: Traced) -> None:
    session = traced.app.state.service.engines.get("sentiment").model.session
    entered, go_on, run = threading.Event(), threading.Event(), session.run

    def hold(*arguments: Any) -> Any:
        entered.set()
        go_on.wait()
        return run(*arguments)

    session.run = hold
    running = asyncio.create_task(traced.client.post("/v1/sentiment", json={"inputs": ["good"]}))
    await asyncio.to_thread(entered.wait)
    late = await traced.client.post("/v1/sentiment", json={"inputs": ["good"], "timeout_ms": 20})
    go_on.set()
    await running
    session.run = run
    assert late.status_code == 504
    wait, request = traced.spans[:2]
    assert (wait.name, request.attributes["baton.code"]) == ("wait", "deadline")
    assert wait.parent == request.context
    assert wait.end_time - wait.start_time >= 20e6
    assert request.status.status_code is StatusCode.ERROR
    assert [span.name for span in traced.spans[2:]] == ["wait", "run", "POST /v1/sentiment"]


async def test_health_metrics_and_documents_are_not_traced(traced: Traced, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS)
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v2/health/ready"):
        assert (await traced.client.get(path)).status_code == 200
    assert traced.spans == ()
    assert not [line for line in caplog.messages if "trace=" in line]


async def test_no_span_holds_a_text_or_a_token(traced: Traced) -> None:
    await traced.client.post("/v1/sentiment", json={"inputs": [SECRET, {"text": SECRET, "wrong": SECRET}]})
    await traced.client.post("/v1/sentiment", json={"inputs": [SECRET], "model": SECRET})
    for path in (f"/v1/models/{SECRET}", f"/{SECRET}", f"/v1/models/{SECRET}/versions/1"):
        await traced.client.get(path)
    token = (await traced.client.post("/v1/step", json=STEP)).json()["results"][0]["state"]
    for state in (token, SECRET):
        await traced.client.post("/v1/step", json={"model": "stepper", "items": [{"inputs": [[1, 2]], "state": state}]})
    told = "".join(span.to_json() for span in traced.spans)
    assert len(traced.spans) > 10
    assert SECRET not in told
    assert token not in told


@pytest.fixture
def streaming(models: Path, tmp_path: Path) -> Iterator[tuple[TestClient, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, provider(), SimpleSpanProcessor)
    settings = Settings(models_dir=models, state_dir=tmp_path)
    with TestClient(create_app(settings, tried=vouched(models), tracer=tracer)) as client:
        yield client, exporter


def test_each_frame_of_a_stream_is_a_trace_linked_to_the_connection_s(
    streaming: tuple[TestClient, InMemorySpanExporter],
) -> None:
    client, exporter = streaming
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with client.websocket_connect("/v1/stream", headers=headers) as stream:
        stream.send_json({"model": "stepper"})
        stream.receive_json()
        stream.send_json({"inputs": [[1, 2], [3, 4]], "checkpoint": True})
        stream.receive_json(), stream.receive_json()
        stream.send_json({"inputs": [[1]]})
        assert stream.receive_json()["type"] == "error"
    *parts, connection = exporter.get_finished_spans()
    frames = [span for span in parts if span.name.endswith(" /v1/stream")]
    assert [frame.name.split()[0] for frame in frames] == ["opening", "frame", "frame"]
    assert (connection.name, connection.attributes["http.response.status_code"]) == ("GET /v1/stream", 101)
    assert f"{connection.context.trace_id:032x}" == TRACE
    assert (connection.attributes["baton.frames"], connection.attributes["baton.steps"]) == (2, 2)
    assert all(frame.links[0].context == connection.context and frame.parent is None for frame in frames)
    assert len({frame.context.trace_id for frame in (*frames, connection)}) == 4
    opening, step, refused = frames
    assert children(tuple(parts), step) == ["wait", "run", "seal"]
    assert step.attributes["baton.steps"] == 2
    assert opening.attributes == {}
    assert refused.attributes["baton.code"] == "ragged_inputs"
    assert children(tuple(parts), connection) == []


def test_what_ends_a_stream_is_in_the_spans_of_its_frame_and_of_its_connection(
    streaming: tuple[TestClient, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, exporter = streaming
    with client.websocket_connect("/v1/stream") as stream:
        stream.send_json({"model": "nobody"})
        assert stream.receive_json()["error"]["code"] == "unknown_model"
        assert stream.receive()["type"] == "websocket.close"
    opening, connection = exporter.get_finished_spans()
    assert (opening.name, connection.name) == ("opening /v1/stream", "GET /v1/stream")
    assert opening.attributes["baton.code"] == connection.attributes["baton.code"] == "unknown_model"
    assert opening.status.status_code is connection.status.status_code is StatusCode.UNSET
    assert connection.start_time < opening.start_time
    exporter.clear()

    async def away(points: list[Any], **_: Any) -> list[Any]:
        return [StoreUnavailable("away")]

    async def broken(points: list[Any], **_: Any) -> list[Any]:
        raise RuntimeError("a cause")

    sessions = client.app.state.service.sessions
    with client.websocket_connect("/v1/stream") as stream:
        stream.send_json({"model": "stepper"})
        stream.receive_json()
        monkeypatch.setattr(sessions, "hand_out", away)
        stream.send_json({"inputs": [[1, 2]], "checkpoint": True})
        assert [stream.receive_json()["type"] for _ in range(2)] == ["step", "error"]
        monkeypatch.undo()
        engine = client.app.state.service.engines.get("stepper")
        monkeypatch.setattr(engine.batcher, "wait_for_room", broken)
        stream.send_json({"inputs": [[1, 2]]})
        while stream.receive()["type"] != "websocket.close":
            pass
    *parts, connection = exporter.get_finished_spans()
    frames = [span for span in parts if span.name == "frame /v1/stream"]
    assert [frame.attributes["baton.code"] for frame in frames] == ["store_unavailable", "internal"]
    assert connection.attributes["baton.code"] == connection.attributes["error.type"] == "internal"
    assert connection.attributes["baton.close"] == 1011
    assert {span.status.status_code for span in (*frames, connection)} == {StatusCode.ERROR}


def test_a_client_that_does_not_sample_leaves_no_frame(streaming: tuple[TestClient, InMemorySpanExporter]) -> None:
    client, exporter = streaming
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    with client.websocket_connect("/v1/stream", headers=headers) as stream:
        stream.send_json({"model": "stepper"})
        assert stream.receive_json()["type"] == "open"
    assert exporter.get_finished_spans() == ()


async def test_a_sampled_share_is_of_requests_as_a_whole(models: Path, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    tracer = Tracer(exporter, provider(sampler=ParentBased(TraceIdRatioBased(0.5))), SimpleSpanProcessor)
    async with serve_here(Settings(models_dir=models, state_dir=tmp_path), Clock(), tracer) as (client, _):
        for _ in range(60):
            await client.post("/v1/sentiment", json={"inputs": ["good"]})
    names = [span.name for span in exporter.get_finished_spans()]
    assert 0 < names.count("POST /v1/sentiment") < 60
    assert names == ["wait", "run", "POST /v1/sentiment"] * (len(names) // 3)


async def test_spans_leave_as_the_library_s_encoder_makes_them(traced: Traced) -> None:
    """All kinds of spans, first in a batch and behind others: with and without parents, trace states and errors."""
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    await traced.client.post("/v1/step", json=STEP)
    await traced.client.post("/v1/step", json=STEP, headers=headers)
    await traced.client.post("/v1/step", json=STEP, headers={"traceparent": headers["traceparent"]})
    await traced.client.post("/v1/step", json={"items": []})

    @traced.app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("a cause")

    await traced.client.get("/v1/broken")
    spans = traced.spans
    for start in range(len(spans)):
        assert ExportTraceServiceRequest.FromString(encode(spans[start:])) == encode_spans(spans[start:])


@pytest.fixture
def collector() -> Iterator[tuple[str, list[int]]]:
    """Yield a collector's endpoint, and the statuses that it answers with next; after those it is content."""
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", statuses
        server.shutdown()
        thread.join()


async def test_the_log_tells_a_collector_that_is_away_from_one_that_is_too_slow(
    traced: Traced,
    collector: tuple[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    endpoint, statuses = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    for logger in LOST:  # what an exporter puts there stays as long as its process
        monkeypatch.setattr(logging.getLogger(logger), "filters", [])
    await traced.client.post("/v1/sentiment", json={"inputs": ["good"]})
    exporter, go_on = Exporter(), threading.Event()

    class Slow(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            go_on.wait()
            return exporter.export(spans)

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if "http_" not in record.name]
        caplog.clear()
        return [line for line in lines if "span" in line.lower()]

    batches = BatchSpanProcessor(Slow(), max_queue_size=2, max_export_batch_size=1)
    for _ in range(6):
        batches.on_end(traced.spans[0])
    go_on.set()
    batches.shutdown()
    assert told() == ["Queue full, dropping Span."]
    statuses += [404, 404, 200, 404]
    lines = []
    for _ in range(4):
        exporter.export(traced.spans)
        lines.append(told())
    exporter.shutdown()
    failed, again, back, once_more = lines
    assert (len(failed), again, back, len(once_more)) == (1, [], ["spans arrive at the collector again"], 1)
    assert "404" in failed[0]


async def test_a_worker_ends_whatever_becomes_of_its_last_spans(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ever = threading.Event()

    class Stuck(SpanProcessor):
        def shutdown(self) -> None:
            ever.wait()

    monkeypatch.setattr(tracing, "FLUSH_S", 0.01)
    await Tracer(InMemorySpanExporter(), provider(), lambda _: Stuck()).close()
    ever.set()
    assert "they are lost" in caplog.text
