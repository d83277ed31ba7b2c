"""What holds for every call: ids, errors, limits, log, metrics, information."""

from __future__ import annotations

import json
import re
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from conftest import Server, ServerFactory
from prometheus_client.parser import text_string_to_metric_families
from streams import Stream

from service.app import create_app
from service.settings import Settings

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("POST", "/v1/sentiment", b"", JSON, 400, "malformed_json"),
        ("POST", "/v1/sentiment", b"{", JSON, 400, "malformed_json"),
        ("POST", "/v1/sentiment", b"\xff\xfe", JSON, 400, "malformed_json"),
        ("POST", "/v1/sentiment", b"hello", JSON, 400, "malformed_json"),
        ("POST", "/v1/sentiment", b"[" * 5000, JSON, 400, "malformed_json"),
        ("POST", "/v1/sentiment", b"[]", JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b"null", JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b"{}", JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b'{"inputs": []}', JSON, 422, "empty_input"),
        ("POST", "/v1/sentiment", b'{"inputs": "good"}', JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"], "score": "all"}', JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"], "scores": "some"}', JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"], "model": "nope"}', JSON, 404, "unknown_model"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"], "model": "stepper"}', JSON, 422, "wrong_task"),
        ("POST", "/v1/forecast", b'{"series": [], "horizon": 1}', JSON, 422, "empty_input"),
        ("POST", "/v1/step", b'{"model": "stepper", "items": []}', JSON, 422, "empty_input"),
        ("POST", "/v1/step", b'{"items": [{"values": [1]}]}', JSON, 422, "invalid_request"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"]}', {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/v1/sentiment", b'{"inputs": ["a"]}', {}, 415, "unsupported_media_type"),
        ("GET", "/v1/sentiment", b"", {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", b"", {}, 405, "method_not_allowed"),
        ("GET", "/v1/nowhere", b"", {}, 404, "not_found"),
        ("GET", "/v1/models/nope", b"", {}, 404, "unknown_model"),
        ("POST", "/v1/sentiment/", b'{"inputs": ["a"]}', JSON, 404, "not_found"),
        ("POST", "/v1/sentiment", b"\x1f\x8b", {**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ("POST", "/v1/sentiment", b'{"inputs": [' + b"5," * 1_000_000 + b"5]}", JSON, 413, "batch_too_large"),
        (
            "POST",
            "/v1/sentiment",
            json.dumps({f"{n}": n for n in range(20_001)}).encode(),
            JSON,
            422,
            "invalid_request",
        ),
        ("POST", "/v1/forecast", b'{"horizon": 1, "series": [{}], "levels": [-80]}', JSON, 422, "invalid_request"),
        ("POST", "/v1/forecast", b'{"horizon": 1, "series": [{}], "quantiles": []}', JSON, 422, "invalid_request"),
        (
            "POST",
            "/v1/forecast",
            b'{"horizon": 1, "series": [{}], "levels": [' + b"80," * 200 + b"80]}",
            JSON,
            422,
            "invalid_request",
        ),
    ],
)
def test_a_bad_request_gets_its_code_and_one_line_in_the_log(
    server: Server, method: str, path: str, content: bytes, headers: dict, status: int, code: str
) -> None:
    request_id, start = uuid.uuid4().hex, server.mark()
    before = server.metric("baton_rejected_total", "cause", code)
    answer = server.client.request(method, path, content=content, headers={**headers, "x-request-id": request_id})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["request_id"] == answer.headers["x-request-id"] == request_id
    assert error["message"]
    assert server.metric("baton_rejected_total", "cause", code) == before + 1
    written = server.lines_since(start, until=request_id)
    assert [line for line in written if "GET /metrics" not in line] == [
        line for line in written if f"id={request_id} code={code} " in line
    ]


@pytest.mark.parametrize(
    ("headers", "missing"),
    [
        ({}, "'Upgrade: websocket' and 'Connection: Upgrade';"),
        ({"Upgrade": "websocket"}, "'Connection: Upgrade';"),
        ({"Upgrade": "h2c", "Connection": "keep-alive, Upgrade"}, "'Upgrade: websocket';"),
    ],
)
def test_a_stream_that_comes_as_plain_http_is_told_what_its_proxy_left_out(
    server: Server, headers: dict[str, str], missing: str
) -> None:
    lines = ["GET /v1/stream HTTP/1.1", "host: x", *(f"{name}: {given}" for name, given in headers.items())]
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = HTTPResponse(connection)
        answer.begin()
        error = json.loads(answer.read())["error"]
    assert (answer.status, error["code"], answer.headers["upgrade"]) == (426, "upgrade_required", "websocket")
    assert f"came without {missing}" in error["message"]
    assert "proxy_set_header Upgrade $http_upgrade" in error["message"]


def test_a_byte_order_mark_is_skipped_or_named(server: Server) -> None:
    """Editors and shells of Windows put one before what they write."""
    text = '{"inputs": ["good", 5]}'
    marked = server.client.post("/v1/sentiment", content=text.encode("utf-8-sig"), headers=JSON).json()
    assert marked["summary"] == {"ok": 1, "failed": 1}
    for encoding in ("utf-16", "utf-32"):
        answer = server.client.post("/v1/sentiment", content=text.encode(encoding), headers=JSON)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "malformed_json")
        assert error["message"].endswith("send JSON in UTF-8")
    with Stream(server, first='\ufeff{"model": "stepper"}') as stream:
        assert stream.frame()["type"] == "open"


def test_a_misspelt_member_is_named(server: Server) -> None:
    error = server.post("/v1/sentiment", {"inputs": ["a"], "truncated": "end"}).json()["error"]
    assert error["field"] == "truncated"


def test_an_unknown_model_is_told_which_exist(server: Server) -> None:
    error = server.post("/v1/step", {"model": "nope", "items": [{"values": [1]}]}).json()["error"]
    assert error["field"] == "model"
    assert all(name in error["message"] for name in ("sentiment", "forecast", "stepper", "reader", "numbers"))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_ten_megabyte_text_is_refused_with_the_limit(server: Server, chunked: bool) -> None:
    content = json.dumps({"inputs": ["x" * 10_000_000]}).encode()
    pieces = (content[start : start + 65_536] for start in range(0, len(content), 65_536))
    answer = httpx.post(f"{server.url}/v1/sentiment", content=pieces if chunked else content, headers=JSON)
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["code"], error["limit"]) == ("body_too_large", 4 * 2**20)
    assert server.post("/v1/sentiment", {"inputs": ["good"]}).status_code == 200


def test_what_a_client_sends_cannot_forge_or_flood_the_log(server: Server) -> None:
    start = server.mark()
    server.client.get("/v1/models/%1b[31mred%0d%0aFAKE%0b%c2%85line", headers={"x-request-id": "forger"})
    answer = server.post("/v1/step", {"model": "x" * 200_000, "items": [{}]}, headers={"x-request-id": "flooder"})
    forged, flooded = server.lines_since(start, until="flooder")
    assert forged.isascii()
    assert forged.isprintable()
    assert len(flooded) < 1000
    assert len(answer.text) < 1000


def test_an_upgrade_that_loses_the_body_is_told(server: Server) -> None:
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"}
    answer = server.post("/v1/sentiment", {"inputs": ["good"]}, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "malformed_json")
    assert "Upgrade: h2c" in error["message"]
    assert answer.headers["connection"] == "close"


def test_probes_may_ask_with_head(server: Server) -> None:
    assert [server.client.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_too_many_items_are_refused_with_the_limit(server: Server) -> None:
    answer = server.post("/v1/sentiment", {"inputs": ["good"] * 1025})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"], error["limit"]) == (
        413,
        "batch_too_large",
        "inputs",
        1024,
    )


def test_a_body_that_never_ends_is_refused_and_does_not_hold_up_the_end(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_TIMEOUT_MS="500")
    head = "POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(head.encode())
        server.stop()
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"body_timeout"' in answer
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_head_that_never_ends_is_cut_and_holds_up_no_answer(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """First on its connection, behind requests that are still being answered; so is a body that goes on after them."""
    server = start_server(tiny_models, tmp_path, BATON_TIMEOUT_MS="300")
    whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    slow = b"POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
    for sent, statuses in (
        ((whole[:9],), [408]),
        ((whole + whole[:9],), [200, 408]),
        ((slow + b"{}       " + whole[:9],), [422, 408]),
        ((slow.replace(b"json", b"yaml"), b"{"), [415]),
    ):
        with socket.create_connection(server.address, timeout=30) as client:
            received = b""
            for part in sent:
                client.sendall(part)
                received += client.recv(65_536)
            received += client.makefile("rb").read()
        assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)] == statuses, sent
        assert received.endswith(b"a request did not arrive within 300 ms (timeout_ms)") is (statuses[-1] == 408)
    assert server.client.get("/healthz").status_code == 200


def test_a_head_without_bounds_is_refused(server: Server) -> None:
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 12_000)
        assert client.makefile("rb").readline() == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def test_a_client_that_leaves_in_the_middle_of_its_request_is_one_line_in_the_log(server: Server) -> None:
    head = "POST /v1/sentiment HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    start = server.mark()
    with socket.create_connection(server.address) as client:
        client.sendall(f'{head}x-request-id: leaver\r\ncontent-length: 1000\r\n\r\n{{"inputs": ['.encode())
    (line,) = server.lines_since(start, until="leaver")
    assert " 499 " in line


def test_the_service_writes_nothing_at_home_and_reports_to_nobody(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """ONNX Runtime keeps a telemetry database under ~/.cache unless it is told not to, or sees that CI is set."""
    home = tmp_path / "home"
    home.mkdir()
    server = start_server(tiny_models, tmp_path / "state", HOME=str(home), XDG_CACHE_HOME="", CI="")
    assert server.post("/v1/sentiment", {"inputs": ["good"]}).status_code == 200
    server.stop()
    assert list(home.rglob("*")) == []


def test_a_request_id_is_taken_or_made(server: Server) -> None:
    assert server.client.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {
        server.client.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"]
        for bad in ("", "a b", "x" * 200)
    }
    assert len(made) == 3
    assert all(re.fullmatch(r"[0-9a-f]{16}-[0-9]+", request_id) for request_id in made)


def test_concurrent_requests_leave_a_line_each(server: Server) -> None:
    start = server.mark()
    ids = [f"concurrent-{number}" for number in range(60)]

    def ask(request_id: str) -> int:
        headers = {"x-request-id": request_id}
        return server.client.post("/v1/sentiment", json={"inputs": ["good"]}, headers=headers).status_code

    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(ask, ids)) == {200}
    server.mark()
    logged = [line.split(" id=")[1].split()[0] for line in server.lines[start:] if "POST /v1/sentiment 200" in line]
    assert sorted(logged) == sorted(ids)


def test_timing_is_in_the_header_and_the_body_alike(server: Server) -> None:
    answer = server.post("/v1/sentiment", {"inputs": ["good", "a good film"]})
    header = dict(part.strip().split(";", 1) for part in answer.headers["server-timing"].split(","))
    assert {"queue", "run", "total", "rows", "batch", "padding"} == set(header)
    assert header["rows"] == 'desc="2"'
    timing = answer.json()["timing_ms"]
    for name in ("queue", "run", "total"):
        assert float(header[name].removeprefix("dur=")) == pytest.approx(timing[name], abs=0.002)
    assert 0 <= timing["queue"] + timing["run"] <= timing["total"]


def test_the_metrics_count_what_happened(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path)
    for _ in range(5):
        server.post("/v1/sentiment", {"inputs": ["very good", "good film", ""]})
    state: dict = {}
    for _ in range(4):
        (result,) = server.post("/v1/step", {"model": "numbers", "items": [{"values": [1, 2], **state}]}).json()[
            "results"
        ]
        state = {"state": result["state"]}
    server.post("/v1/step", {"model": "numbers", "items": [{"values": [1], "state": ""}]})
    expected = {
        ("baton_requests_total", "endpoint", "/v1/sentiment"): 5,
        ("baton_request_seconds_count", "endpoint", "/v1/sentiment"): 5,
        ("baton_item_errors_total", "cause", "empty_input"): 5,
        ("baton_batch_rows_count", "model", "sentiment"): 5,
        ("baton_batch_rows_sum", "model", "sentiment"): 10,
        ("baton_batch_cells_sum", "model", "sentiment"): 20,
        ("baton_steps_total", "model", "sentiment"): 20,
        ("baton_padding_ratio_sum", "model", "sentiment"): 5,
        ("baton_queue_rows", "model", "sentiment"): 0,
        ("baton_tokens_issued_total", "model", "numbers"): 4,
        ("baton_tokens_opened_total", "model", "numbers"): 3,
        ("baton_tokens_rejected_total", "reason", "too_short"): 1,
        ("baton_limit", "name", "max_items"): 1024,
        ("baton_model_info", "model", "reader"): 1,
    }
    assert {key: server.metric(*key) for key in expected} == expected
    assert server.metric("baton_session_steps_sum") == 2 + 4 + 6 + 8
    assert server.metric("baton_resident_bytes", "worker", "0") > 2**20
    families = list(text_string_to_metric_families(server.client.get("/metrics").text))
    assert all(family.name.startswith("baton_") for family in families)
    server.stop()


def test_a_running_service_is_alive_and_ready(server: Server) -> None:
    assert server.client.get("/healthz").json() == {"status": "alive"}
    assert server.client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.anyio
async def test_a_draining_service_is_alive_but_not_ready_and_takes_no_work(tiny_models: Path, tmp_path: Path) -> None:
    app = create_app(Settings(models_dir=tiny_models, state_dir=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baton") as client:
        async with app.router.lifespan_context(app):
            assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        for answer in (await client.get("/readyz"), await client.post("/v1/sentiment", json={"inputs": ["good"]})):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
            assert answer.headers["retry-after"] == "1"


@pytest.mark.anyio
async def test_a_service_without_workers_is_alive_but_not_ready(tiny_models: Path, tmp_path: Path) -> None:
    app = create_app(Settings(models_dir=tiny_models, state_dir=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baton") as client:
        assert (await client.get("/healthz")).status_code == 200
        for answer in (await client.get("/readyz"), await client.post("/v1/sentiment", json={"inputs": ["good"]})):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"


def test_a_fall_back_to_the_cpu_is_logged_once(server: Server) -> None:
    told = [line for line in server.lines if "device auto: no CUDAExecutionProvider here" in line]
    assert len(told) == 1


def test_models_and_limits_can_be_looked_up(server: Server) -> None:
    lines = {line["name"]: line for line in server.client.get("/v1/models").json()["models"]}
    assert {name: (line["task"], line["streamable"]) for name, line in lines.items()} == {
        "sentiment": ("sentiment", False),
        "forecast": ("forecast", False),
        "stepper": ("step", True),
        "numbers": ("step", True),
        "reader": ("step", True),
    }
    facts = server.client.get("/v1/models/stepper").json()
    assert (facts["state_bytes"], facts["inputs"][0]["shape"]) == (32, ["batch", "time", 2])
    (begun,) = server.post("/v1/step", {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}).json()["results"]
    assert facts["token_chars"] == len(begun["state"])
    assert server.client.get("/v1/models/sentiment").json()["token_chars"] is None
    info = server.client.get("/v1/info").json()
    assert info["devices"]["stepper"] == "cpu"
    assert info["limits"]["max_body_bytes"] == 4 * 2**20
    assert info["workers"] == 1


def test_openapi_describes_every_call_from_the_models_that_validate(server: Server) -> None:
    document = server.client.get("/openapi.json").json()
    assert {path for path in document["paths"] if not path.startswith("/v2")} == {
        *("/v1/sentiment", "/v1/forecast", "/v1/step", "/v1/state", "/v1/generate", "/v1/completions"),
        *("/v1/tag", "/v1/transform", "/v1/classify", "/v1/translate"),
        *("/v1/models", "/v1/models/{name}", "/v1/info"),
        *("/v1/models/{name}/card", "/v1/models/{name}/pictures/{file}"),
        *("/healthz", "/readyz", "/metrics"),
    }
    body = document["paths"]["/v1/step"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("/StepRequest")
    step = document["components"]["schemas"]["StepRequest"]
    assert step["additionalProperties"] is False
    assert "return" in step["properties"]
    assert server.client.get("/docs").status_code == 200
