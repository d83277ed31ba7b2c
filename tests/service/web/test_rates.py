"""How often a tenant may call: alone, apart from others, over several replicas, and when their Redis is gone."""

from __future__ import annotations

from pathlib import Path

import httpx
from conftest import RedisServer, Server, ServerFactory
from keyring import Keyring
from streams import Stream

KEYS = Keyring("acme", "bolt", admin=True)
STEP = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}


def ask(server: Server, tenant: str = "acme") -> httpx.Response:
    return server.post("/v1/step", STEP, headers=KEYS.header(tenant))


def statuses(server: Server, calls: int, tenant: str = "acme") -> list[int]:
    return [ask(server, tenant).status_code for _ in range(calls)]


def test_a_tenant_that_calls_too_often_is_refused_and_others_are_not(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=KEYS.setting, BATON_RATE_LIMIT="1000/minute; 3/day")
    assert statuses(server, 3) == [200] * 3
    refusal = ask(server)
    error = refusal.json()["error"]
    assert (refusal.status_code, error["code"], error["limit"]) == (429, "rate_limited", 3)
    assert 1 <= int(refusal.headers["retry-after"]) <= 86_400
    assert -(-error["retry_after_ms"] // 1000) == int(refusal.headers["retry-after"])
    over_v2 = server.client.get("/v2", headers=KEYS.header("acme"))
    assert (over_v2.status_code, list(over_v2.json())) == (429, ["error"])
    assert statuses(server, 1, "bolt") == [200]
    assert {server.client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/docs")} == {200}
    order = server.client.post("/v2/repository/models/stepper/load", headers=KEYS.header())
    assert order.status_code == 200
    assert server.metric("baton_rejected_total", "cause", "rate_limited") == 2
    assert server.metric("baton_rejected_total", "cause", "overloaded") == 0
    assert server.post("/v1/step", STEP).status_code == 401


def test_the_frames_of_a_stream_are_calls_and_the_stream_ends_with_what_it_has(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(
        tiny_models, tmp_path, BATON_API_KEYS=KEYS.setting, BATON_RATE_LIMIT="3/day", BATON_TIMEOUT_MS="500"
    )
    with Stream(server, key=KEYS["acme"]) as stream:
        for step in (1, 2):
            assert stream.ask(inputs=[[1, 2]])["step"] == step
        stream.send(inputs=[[1, 2]])
        (checkpoint, refusal), code = stream.end()
    assert (checkpoint["step"], refusal["error"]["code"], code) == (2, "rate_limited", 1013)
    assert ask(server).status_code == 429


def test_a_frame_that_is_early_waits(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    """It is not refused, for the frames behind it would be taken before it."""
    server = start_server(tiny_models, tmp_path, BATON_RATE_LIMIT="5/second")
    with Stream(server) as stream:
        for _ in range(12):
            stream.send(inputs=[[1, 2]])
        assert [stream.frame()["step"] for _ in range(12)] == list(range(1, 13))


def test_replicas_count_in_their_redis_together_and_alone_without_it(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, redis_server: RedisServer
) -> None:
    settings = {
        "BATON_API_KEYS": KEYS.setting,
        "BATON_RATE_LIMIT": "4/day",
        "BATON_STORE": redis_server.url,
    }
    first, second = (start_server(tiny_models, tmp_path / name, **settings) for name in "ab")
    assert [ask(server).status_code for server in (first, second, first, second)] == [200] * 4
    assert [ask(first).status_code, ask(second).status_code] == [429, 429]
    redis_server.stop()
    assert statuses(first, 5) == [200] * 4 + [429]
    assert first.metric("baton_rates_alone_total") >= 1
    assert any("calls are counted by this worker alone" in line for line in first.lines)
