"""Which pages a browser lets call the service: its own alone, and those of the origins that it was told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Server
from keyring import Keyring

KEYS = Keyring("acme")
APP = "https://app.example.com"
STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}


@pytest.fixture(scope="module")
def shared(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(
        tiny_models,
        tmp_path_factory.mktemp("shared"),
        BATON_API_KEYS=KEYS.setting,
        BATON_CORS_ORIGINS=f'["{APP}"]',
        BATON_RATE_LIMIT="3/day",
    )
    yield running
    running.stop()


def preflight(server: Server, origin: str) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return server.client.options("/v1/step", headers=asked)


def allowed(answer: httpx.Response) -> str | None:
    origin: str | None = answer.headers.get("access-control-allow-origin")
    return origin


def test_no_page_of_another_origin_may_call_by_default(server: Server) -> None:
    assert preflight(server, APP).status_code == 405
    answer = server.post("/v1/step", STEP, headers={"origin": APP})
    assert [name for name in answer.headers if name.startswith("access-control")] == []


def test_a_page_of_an_origin_that_is_named_may_call(shared: Server) -> None:
    """It may send a key, and read ids, times and errors; the browser sends no cookies of its own."""
    asked = preflight(shared, APP)
    assert (asked.status_code, allowed(asked)) == (200, APP)
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in asked.headers
    answer = shared.post("/v1/step", STEP, headers={"origin": APP, **KEYS.header("acme")})
    assert (answer.status_code, allowed(answer)) == (200, APP)
    assert {"server-timing", "x-request-id"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    refusal = shared.post("/v1/step", STEP, headers={"origin": APP})
    assert (refusal.status_code, allowed(refusal)) == (401, APP)
    for _ in range(3):
        refusal = shared.post("/v1/step", STEP, headers={"origin": APP, **KEYS.header("acme")})
    assert (refusal.status_code, allowed(refusal)) == (429, APP)


def test_a_page_of_another_origin_may_not(shared: Server) -> None:
    for origin in ("https://evil.example.com", f"{APP}.evil.com", f"{APP}:444", "null"):
        assert allowed(preflight(shared, origin)) is None
        assert allowed(shared.client.get("/v1/models", headers={"origin": origin})) is None


def test_what_a_browser_sends_unasked_is_looked_at(shared: Server, server: Server) -> None:
    """A form of another origin may be sent with any of its media types, and /v2 does not ask for one."""
    tensor = {"name": "x", "shape": [1, 1, 2], "datatype": "FP32", "data": [1, 2]}
    body = json.dumps({"inputs": [tensor]})
    path, own = "/v2/models/stepper/infer", server.url
    for kind in ({"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}, {}):
        for origin, status in (("https://evil.example.com", 403), ("http://[", 403), ("null", 403), (own, 200)):
            answer = server.client.post(path, content=body, headers={"origin": origin, **kind})
            assert answer.status_code == status
        assert server.client.post(path, content=body, headers=kind).status_code == 200
    asked = {"origin": "https://evil.example.com", "content-type": "application/json"}
    assert server.client.post(path, content=body, headers=asked).status_code == 200  # for which the browser had to ask
    keyed = {"origin": APP, "content-type": "text/plain", **KEYS.header("acme")}
    assert shared.client.post(path, content=body, headers=keyed).status_code != 403


def test_a_page_goes_out_with_what_keeps_others_away(server: Server) -> None:
    for path in ("/docs", "/", "/page/main.js"):
        answer = server.client.get(path)
        assert answer.status_code == 200
        headers = answer.headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
