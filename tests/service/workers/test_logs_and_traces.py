"""What a service of two workers tells of its work: JSON lines in its log, spans at a collector, secrets in neither."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Server, ServerFactory, baton, free_port
from each_worker import each_worker
from keyring import Keyring
from streams import Stream

from loadtests.collector import Collector, collecting

TENANT = "café"
KEYS = Keyring(TENANT, admin=True)
API_KEY, HEADERS = KEYS[TENANT], KEYS.header(TENANT)
SECRET = "verysecretword"
SEQUENCE = "verysecretsequence"
JSON = {"BATON_LOG_FORMAT": "json"}
TRACING = {"BATON_TRACING": "true", "OTEL_BSP_SCHEDULE_DELAY": "3600000"}  # until the end, spans wait for more


@dataclass
class Told:
    """A service's log and spans, once it has ended, and the state tokens that it made."""

    lines: list[dict[str, Any]]
    collector: Collector
    raw: str
    tokens: list[str]
    workers: set[int]

    def request(self, request_id: str) -> dict[str, Any]:
        (line,) = [line for line in self.lines if line.get("id") == request_id]
        return dict(line)


@pytest.fixture(scope="module")
def told(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """Ask a service of two workers for a request of each kind, on each of them."""
    with collecting() as collector:
        server = Server(
            tiny_models,
            tmp_path_factory.mktemp("state"),
            BATON_WORKERS="2",
            BATON_API_KEYS=KEYS.setting,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            PYTHONIOENCODING="ascii",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=tests",
            **JSON,
            **TRACING,
        )
        with each_worker(server, 2) as clients:
            workers = set(clients)
            tokens = [token for pid, client in clients.items() for token in ask_everything(client, str(pid))]
        with Stream(server, api_key=API_KEY) as stream:
            tokens.append(stream.ask(inputs=[[1, 2]], checkpoint=True) and stream.frame()["state"])
            stream.ask(values=[SECRET])
        server.process.send_signal(signal.SIGHUP)
        server.stop()
        return Told([json.loads(line) for line in server.lines], collector, "\n".join(server.lines), tokens, workers)


def ask_everything(client: Any, prefix: str) -> list[str]:
    """Send what can go right and wrong; return the tokens that came."""

    def post(path: str, body: object, name: str, **headers: str) -> Any:
        return client.post(path, json=body, headers=HEADERS | {"x-request-id": f"{prefix}-{name}"} | headers)

    post("/v1/sentiment", {"inputs": ["good", SECRET, {"text": SECRET, "id": SECRET}, SECRET * 9999]}, "texts")
    post("/v1/sentiment", {"inputs": [SECRET], "truncate": SECRET}, "invalid")
    post("/v1/sentiment", {"inputs": [SECRET], "model": SECRET}, "unknown")
    post("/v1/sentiment", {"inputs": ["good"]}, "refused", authorization=f"Bearer {SECRET}")
    step = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
    token = post("/v1/step", step, "step").json()["results"][0]["state"]
    step["items"][0]["state"] = token[:-4] + "AAAA"
    post("/v1/step", step, "tampered")
    tensor = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
    begun = {"sequence_id": SEQUENCE, "sequence_start": True}
    for parameters, name in ((begun, "sequence"), ({"sequence_id": SEQUENCE * 2}, "lost")):
        post("/v2/models/stepper/infer", {"inputs": [tensor], "parameters": parameters}, name)
    client.post("/v2/repository/models/stepper/load", headers=KEYS.header())
    for path in ("/v1/models", f"/v1/models/{SECRET}", f"/{SECRET}"):
        client.get(path, params={"secret": SECRET}, headers=HEADERS)
    return [token]


def test_every_line_is_an_object_that_tells_when_and_who(told: Told) -> None:
    started = datetime.now(UTC).timestamp()
    for line in told.lines:
        assert {"time", "level", "process", "logger"} < line.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert 0 <= started - datetime.fromisoformat(line["time"]).timestamp() < 3600
        assert ("message" in line) is (line["logger"] != "baton.access")
    assert len({line["process"] for line in told.lines}) >= 3  # two workers, and whoever started them
    assert {"uvicorn.error", "baton.workers", "baton.app", "baton.access"} <= {line["logger"] for line in told.lines}


def test_a_request_is_one_line_with_its_members(told: Told) -> None:
    for pid in told.workers:
        line = told.request(f"{pid}-texts")
        assert line.pop("ms") > 0
        assert len(line.pop("trace_id")) == 32
        del line["time"]
        assert line == {
            "level": "INFO",
            "process": pid,
            "logger": "baton.access",
            "id": f"{pid}-texts",
            "tenant": TENANT,
            "method": "POST",
            "endpoint": "/v1/sentiment",
            "status": 200,
            "items": 4,
            "failed": 1,
            "codes": {"item_too_large": 1},
            "rows": 3,
        }


def test_a_refusal_s_line_has_its_code(told: Told) -> None:
    (pid, _) = told.workers
    found = {name: told.request(f"{pid}-{name}") for name in ("invalid", "unknown", "refused", "tampered", "lost")}
    assert {name: (line["status"], line["code"]) for name, line in found.items()} == {
        "invalid": (422, "invalid_request"),
        "unknown": (404, "unknown_model"),
        "refused": (401, "unauthorized"),
        "tampered": (422, "state_invalid"),
        "lost": (400, "sequence_unknown"),
    }
    assert found["refused"]["tenant"] is None
    assert found["lost"]["endpoint"] == "/v2/models/{name}/infer"


def test_a_stream_s_line_tells_how_it_ended(told: Told) -> None:
    (line,) = [line for line in told.lines if line.get("method") == "WS"]
    assert (line["status"], line["close"], line["frames"], line["steps"]) == (101, 1000, 2, 1)
    assert (line["endpoint"], line["model"], line["tenant"]) == ("/v1/stream", "stepper", TENANT)


def test_no_line_and_no_span_holds_a_text_a_token_or_a_key(told: Told) -> None:
    spans = b"".join(told.collector.bodies)
    for secret in (SECRET, SEQUENCE, API_KEY, KEYS.admin, *told.tokens):
        assert secret not in told.raw
        assert secret.encode() not in spans


def test_the_spans_of_every_worker_arrive_before_it_ends(told: Told) -> None:
    """They waited for more, so it is the end that has sent them."""
    workers: Counter[int] = Counter()
    for resource, span in told.collector.spans:
        about = {one.key: one.value for one in resource.attributes}
        assert about["service.name"].string_value == "baton"
        assert about["deployment.environment.name"].string_value == "tests"
        workers[about["baton.worker"].int_value] += span.name == "POST /v1/sentiment"
    assert workers == {0: 3, 1: 3}
    logged = {line["trace_id"] for line in told.lines if line.get("endpoint") == "/v1/sentiment"}
    sent = {span.trace_id.hex() for _, span in told.collector.spans if span.name == "POST /v1/sentiment"}
    assert logged == sent
    names = Counter(span.name for _, span in told.collector.spans)
    assert (names["opening /v1/stream"], names["frame /v1/stream"]) == (1, 2)
    assert names["GET /v1/stream"] == 1
    assert not [name for name in names if "health" in name]


def test_a_collector_that_is_away_harms_nobody(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    batches = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    server = start_server(tiny_models, tmp_path, **TRACING, **away, **batches)
    for _ in range(20):
        assert server.post("/v1/sentiment", {"inputs": ["good"]}).status_code == 200
    server.stop()
    lines = [line for line in server.lines if "opentelemetry" in line and "Queue full" not in line]
    assert len(lines) == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_setting_that_cannot_be_used_ends_start_up_in_a_line(tmp_path: Path, log_format: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.sdk'] = None\n")
    ended = baton("serve", BATON_TRACING="true", BATON_LOG_FORMAT=log_format, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    told = json.loads(line)["message"] if log_format == "json" else line.removeprefix("baton: ")
    assert told.startswith("BATON_TRACING needs the extra otel (")
    assert told.endswith("; install it: pip install 'baton-serving[otel]'")


def test_an_unknown_setting_is_told_as_json_where_the_log_is() -> None:
    ended = baton("serve", BATON_LOG_FORMAT="json", BATON_PROT="1")
    told = json.loads(ended.stderr)
    assert (ended.returncode, told["level"]) == (1, "CRITICAL")
    assert told["message"].startswith("BATON_PROT is no setting; did you mean BATON_PORT?")


def test_a_worker_s_failure_is_a_line_too(tmp_path: Path) -> None:
    """One that nobody foresaw: the worker is replaced, and the log has the traceback."""
    program = """if True:
        import os, pathlib, signal, sys
        from service.metrics import share_metrics
        from service.web.access_log import configure_logging
        from service.workers.port import Board
        from service.workers.supervisor import Supervisor
        folder = pathlib.Path(sys.argv[1])

        def work(number, tell):
            if (folder / "tried").exists():
                os.kill(os.getppid(), signal.SIGTERM)
                signal.pause()
            (folder / "tried").touch()
            raise ValueError("no work")

        configure_logging("info", "json")
        share_metrics(str(folder))
        Supervisor(work, 1, Board(1), listening=lambda: None, ending=lambda: None, reloading=lambda: None).run()
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    (failure,) = [line for line in lines if "traceback" in line]
    assert failure["traceback"].endswith("ValueError: no work")
    assert f"worker {failure['process']} died (exit code 1) and is replaced" in [line["message"] for line in lines]


def test_an_exporter_that_is_not_there_is_refused() -> None:
    ended = baton("serve", BATON_TRACING="true", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert ended.returncode == 1
    assert ended.stderr == "baton: OTEL_EXPORTER_OTLP_PROTOCOL: Input should be 'http/protobuf'\n"
