"""A model that is slower than its callers: refusals, deadlines, leavers and fairness, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from here import vouched
from keyring import Keyring
from slow import RawClient, slow_service, until_queued
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.engine.engine import Engine
from service.engine.rows import Row
from service.settings import Settings
from service.web.access_log import ACCESS
from service.web.door import DOOR

pytestmark = pytest.mark.anyio


def ask(
    client: httpx.AsyncClient, *texts: str, model: str = "sentiment", key: str = ""
) -> asyncio.Task[httpx.Response]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "inputs": list(texts)}
    return asyncio.create_task(client.post("/v1/sentiment", json=body, headers=headers))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


POST = "POST /v1/sentiment HTTP/1.1"
HOST, JSON = "Host: service", "Content-Type: application/json"


async def test_a_full_queue_is_429_with_retry_after_and_harms_nobody_who_waits(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=3, max_items=3) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        waiting = ask(client, "good", "bad")
        await until_queued(client, 3)
        refused = await ask(client, "good", "bad")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["limit"] == 3
        slow.let_go(2)
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        assert slow.rows == 3


async def test_past_its_deadline_a_request_is_504_while_another_runs_and_is_never_run(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        late = await client.post("/v1/sentiment", json={"inputs": ["bad", "bad"], "timeout_ms": 20})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        assert not running.done()
        slow.let_go(1)
        assert (await running).status_code == 200
        await until_queued(client, 0)
        assert slow.rows == 1


async def test_the_setting_is_the_default_deadline_and_the_longest(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, timeout_ms=50) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        assert (await ask(client, "bad")).status_code == 504
        for asked in (51, 0, -1, 1.5, "20"):
            refused = await client.post("/v1/sentiment", json={"inputs": ["bad"], "timeout_ms": asked})
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["field"]) == (422, "invalid_request", "timeout_ms")
        assert (await client.post("/v1/sentiment", json={"inputs": ["bad"], "timeout_ms": 51})).json()["error"][
            "limit"
        ] == 50
        slow.let_go(1)
        assert (await running).status_code == 200


async def test_a_client_that_leaves_is_never_run_and_strands_nobody(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        before, leaver, after = ask(client, "good"), ask(client, "bad", "bad"), ask(client, "very good")
        await until_queued(client, 5)
        leaver.cancel()  # closes its connection
        await until_queued(client, 3)
        slow.let_go(3)
        assert [(await task).json()["summary"]["ok"] for task in (running, before, after)] == [1, 1, 1]
        assert slow.rows == 3
        left = 'baton_requests_total{endpoint="/v1/sentiment",status="499"} 1.0'
        assert left in (await client.get("/metrics")).text


async def test_what_waits_shares_runs_by_length_within_the_budget(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, batch_cells=32) as (client, slow):
        first = ask(client, "good")
        await slow.wait_entered()
        texts = [" ".join(["good"] * length) for length in (14, 1, 15, 2, 1, 16, 2, 15)]
        rest = [ask(client, text) for text in texts]
        await until_queued(client, 9)
        slow.let_go(10)
        assert {answer.status_code for answer in await asyncio.gather(first, *rest)} == {200}
        shared = slow.runs[1:]
        assert len(shared) < len(texts)
        assert sorted(length for run in shared for length in run) == sorted((14, 1, 15, 2, 1, 16, 2, 15))
        assert all(len(run) == 1 or len(run) * max(run) <= 32 for run in shared)
        assert not any(min(run) <= 2 and max(run) >= 14 for run in shared)


async def test_a_single_text_does_not_wait_for_a_request_of_hundreds(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, batch_cells=64) as (client, slow):
        measured = ask(client, "good " * 8)
        await slow.wait_entered()
        await asyncio.sleep(0.2)  # the pace that the service measures: a row in 0.2 s
        slow.let_go(1)
        await measured
        large = ask(client, *["good " * 8] * 400)
        await slow.wait_entered()
        single = ask(client, "good " * 7)
        await until_queued(client, 401)
        while not single.done():
            slow.let_go(1)
            await slow.wait_entered()
        assert len(slow.runs) < 12  # of 51
        assert not large.done()
        slow.let_go(100)
        assert (await large).json()["summary"] == {"ok": 400, "failed": 0}


async def test_a_run_that_fails_fails_the_row_at_fault_and_not_those_beside_it(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        slow.let_go(100)
        healthy = slow._run

        def run(names: list[str], feeds: dict) -> list:
            if 3 in feeds["lengths"]:
                raise RuntimeError("three")
            return healthy(names, feeds)

        slow._run = run
        answer = (await ask(client, "good film", "a good film", "bad film")).json()
        assert [result.get("error", {}).get("code") for result in answer["results"]] == [None, "model_failed", None]
        assert (await ask(client, "good")).status_code == 200


async def test_a_text_that_breaks_the_tokenizer_fails_alone(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenise = Engine._tokenise

    def breaking(engine: Engine, rows: list[Row]) -> None:
        if any(row.text == "boom" for row in rows):
            raise RuntimeError("boom")
        tokenise(engine, rows)

    monkeypatch.setattr(Engine, "_tokenise", breaking)
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        slow.let_go(100)
        answer = (await ask(client, "good film", "boom", "bad film")).json()
        assert [result.get("error", {}).get("code") for result in answer["results"]] == [None, "model_failed", None]


async def test_the_death_of_a_model_s_worker_answers_everyone_and_ends_readiness(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        waiting = ask(client, "bad")
        await until_queued(client, 2)

        def die(*_: object) -> list:
            raise SystemExit("out of memory, say")

        slow._run = die
        slow.let_go(1)
        assert [(await task).json()["error"]["code"] for task in (running, waiting)] == ["internal", "internal"]
        unready = await client.get("/readyz")
        assert (unready.status_code, unready.json()["error"]["code"]) == (503, "not_ready")
        assert "sentiment" in unready.json()["error"]["message"]
        refused = await ask(client, "good")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert (await client.post("/v1/step", json={"model": "numbers", "items": [{"values": [1]}]})).status_code == 200


async def test_a_request_that_would_wait_too_long_is_429_until_it_would_not(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, max_wait_ms=5) as (client, slow):
        measured = ask(client, "good")
        await slow.wait_entered()
        began = time.monotonic()
        while time.monotonic() < began + 0.01:  # the pace that the service measures: at least 10 ms a row
            await client.get("/healthz")
        slow.let_go(1)
        await measured
        running = ask(client, *["good"] * 100)  # its own rows make no request wait
        await slow.wait_entered()
        refused = await ask(client, "good")
        assert code(refused) == (429, "overloaded")
        assert "would wait" in refused.json()["error"]["message"]
        assert refused.json()["error"]["limit"] == 5
        assert int(refused.headers["retry-after"]) >= 1
        slow.let_go(100)
        assert (await running).json()["summary"] == {"ok": 100, "failed": 0}
        assert (await ask(client, "good")).status_code == 200


async def test_a_full_queue_refuses_from_the_head_and_swallows_the_body(
    tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(ACCESS), "propagate", True)
    caplog.set_level(logging.INFO, ACCESS)
    async with slow_service(tiny_models, tmp_path, queue_rows=1, max_items=1) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        async with RawClient.to(client) as raw:
            await raw.send(POST, HOST, JSON, "X-Request-Id: full-1", "Content-Length: 1000")
            status, headers, body = await raw.answer()  # before any of the body was sent
            error = json.loads(body)["error"]
            assert (status, error["code"], error["limit"], error["request_id"]) == (429, "overloaded", 1, "full-1")
            assert (headers["x-request-id"], headers["content-type"]) == ("full-1", "application/json")
            assert int(headers["retry-after"]) >= 1
            await raw.send(body=b" " * 600)
            await raw.send(body=b" " * 400)
            await raw.send(POST, HOST, JSON, "Transfer-Encoding: chunked", body=b"3\r\n{  \r\n0\r\n\r\n")
            assert (await raw.answer())[0] == 429
            await raw.send("GET /healthz HTTP/1.1", HOST)
            assert (await raw.answer())[0] == 200
        shown = (await client.get("/metrics")).text
        assert 'baton_rejected_total{cause="overloaded"} 2.0' in shown
        assert 'baton_requests_total{endpoint="/v1/sentiment",status="429"} 2.0' in shown
        lines = [record.getMessage() for record in caplog.records if "id=full-1 code=overloaded" in record.getMessage()]
        assert [line.startswith("POST /v1/sentiment 429 ") for line in lines] == [True]
        slow.let_go(1)
        assert (await running).status_code == 200


@pytest.mark.parametrize(("version", "field"), [("1.1", "Connection: close"), ("1.0", "X-Padding: none")])
async def test_a_refused_client_that_keeps_no_connection_is_not_reset_while_it_sends(
    tiny_models: Path, tmp_path: Path, version: str, field: str
) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=1, max_items=1) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        async with RawClient.to(client) as raw:
            await raw.send(f"POST /v1/sentiment HTTP/{version}", HOST, JSON, field, "Content-Length: 3000000")
            for _ in range(3):
                await raw.send(body=b" " * 1_000_000)
            status, headers, _ = await raw.answer()
            assert (status, headers["connection"]) == (429, "close")
            assert await raw.ended()
        slow.let_go(1)
        await running


async def test_pipelined_requests_that_are_refused_are_answered_in_their_turn(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=1, max_items=1) as (client, slow):
        body = b'{"inputs": ["good"]}'
        async with RawClient.to(client) as raw:
            await raw.send(POST, HOST, JSON, f"Content-Length: {len(body)}", body=body)
            await slow.wait_entered()
            await raw.send(POST, HOST, JSON, f"Content-Length: {len(body)}", body=body)
            other = await ask(client, "good")
            assert code(other) == (429, "overloaded")
            slow.let_go(2)
            assert [(await raw.answer())[0] for _ in range(2)] == [200, 200]


async def test_a_full_model_refuses_before_the_body_is_parsed_and_its_neighbours_answer(tmp_path: Path) -> None:
    tiny.sentiment(tmp_path / "models")
    tiny.sentiment(tmp_path / "models", name="spam")
    async with slow_service(tmp_path / "models", tmp_path, queue_rows=1, max_items=1) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        post = partial(client.post, "/v1/sentiment", headers={"content-type": "application/json"})
        for body in (
            b'{"model": "sentiment", "inputs": [',
            b'{"inputs": [], "model" : "sentiment", ',
            b'{"model": "spam", "model": "sentiment", ',
            b'{"inputs": ["the default"',
        ):
            assert code(await post(content=body)) == (429, "overloaded")
        for body in (
            b'{"model": "spam", "inputs": ["good"]}',
            b'{"model": "sentiment", "inputs": ["good"], "model": "spam"}',
            b'{"inputs": ["good \\"model\\": \\"sentiment\\""], "model":"spam"}',
            b'{"\\u006dodel": "spam", "inputs": ["good"]}',
        ):
            answer = await post(content=body)
            assert (answer.status_code, answer.json()["model"]) == (200, "spam")
        assert code(await post(content=b'{"model": "nobody", "inputs": ["good"]}')) == (404, "unknown_model")
        slow.let_go(1)
        assert (await running).status_code == 200


async def test_the_flood_of_one_tenant_does_not_starve_another(
    tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the log tells whose flood it was."""
    caplog.set_level(logging.INFO, ACCESS)
    keys = Keyring("anna", "berta")
    limits = {"queue_rows": 4, "max_items": 4, "batch_cells": 2}
    async with slow_service(tiny_models, tmp_path, api_keys=keys.entries, log_format="json", **limits) as (
        client,
        slow,
    ):
        running = ask(client, "good", key=keys["anna"])
        await slow.wait_entered()
        flood = [ask(client, "good", key=keys["anna"]) for _ in range(3)]
        await until_queued(client, 4)
        assert code(await ask(client, "good", key=keys["anna"])) == (429, "overloaded")
        other = ask(client, "bad bad", key=keys["berta"])
        await until_queued(client, 5)
        assert code(await ask(client, "good", key="a-stranger")) == (401, "unauthorized")
        slow.let_go(3)
        assert (await other).status_code == 200  # behind the run under way, and one of the other's at most
        slow.let_go(10)
        assert {(await task).status_code for task in (running, *flood)} == {200}
    lines = [json.loads(record.message) for record in caplog.records if record.name == ACCESS]
    assert [line["tenant"] for line in lines if line["status"] == 429] == ["anna"]


@asynccontextmanager
async def open_door(models: Path, state: Path, *, room: int) -> AsyncIterator[Callable[[bytes | None], int | None]]:
    """Yield what knocks with a head for /v1/sentiment, with its body where that came; it returns a refusal's status."""
    app = create_app(
        Settings(models_dir=models, state_dir=state, queue_rows=room, max_items=room), tried=vouched(models)
    )

    def knock(body: bytes | None) -> int | None:
        answer = door.refuse(b"/v1/sentiment", {"type": "http", "headers": []}, body)
        return None if answer is None else answer.status_code

    async with app.router.lifespan_context(app) as parts:
        door = parts[DOOR]
        yield knock


async def test_of_many_heads_read_in_one_turn_of_the_loop_as_many_are_let_in_as_fit(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with open_door(tiny_models, tmp_path, room=2) as knock:
        assert [knock(None) for _ in range(4)] == [None, None, 429, 429]
        await asyncio.sleep(0)
        assert knock(None) is None


async def test_a_body_that_came_with_its_head_is_refused_by_the_model_that_it_names(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with open_door(tiny_models, tmp_path, room=1) as knock:
        assert knock(b'{"inputs": ["good"]}') is None
        assert [knock(b'{"inputs": ["good"]}'), knock(b'{"model": "sentiment", "inputs": ["good"]}')] == [429, 429]
        assert knock(b'{"inputs": ["good"], "model": "spam"}') is None
        assert knock(None) is None, "which model it names is not known yet"


async def test_a_body_behind_a_refused_request_in_one_packet_is_its_own(tiny_models: Path, tmp_path: Path) -> None:
    """A length that fits all that came behind the first head must not make that the second body."""
    async with slow_service(tiny_models, tmp_path, queue_rows=1, max_items=1) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        refused = b'{"inputs": ["good"]}'
        head = "POST /v1/{} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
        size = len(refused) + len(head.format("step", "100")) + 1
        second = b'{"model": "numbers", "items": [{"values": [0]}]}'.ljust(size)
        packet = head.format("sentiment", len(refused)).encode() + refused + head.format("step", size).encode()
        async with RawClient.to(client) as raw:
            await raw.send(body=packet + second[:1])
            assert (await raw.answer())[0] == 429
            await raw.send(body=second[1:])
            status, _, body = await raw.answer()
            assert (status, json.loads(body)["model"]) == (200, "numbers")
        slow.let_go(1)
        assert (await running).status_code == 200


async def test_a_client_that_shuts_its_side_of_the_connection_counts_as_gone(
    tiny_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of it closed or all of it look the same until something is sent; requests in a line go together."""
    caplog.set_level(logging.INFO, ACCESS)
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        body = b'{"inputs": ["good"]}'
        async with RawClient.to(client) as raw:
            for _ in range(3):
                await raw.send(POST, HOST, JSON, f"Content-Length: {len(body)}", body=body)
            await until_queued(client, 2)
            raw.shut()
            assert await raw.ended()
        await until_queued(client, 1)
        slow.let_go(1)
        assert (await running).status_code == 200
        assert slow.rows == 1
    left = [record.message for record in caplog.records if record.name == ACCESS and " 499 " in record.message]
    assert len(left) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_middleware_of_the_operator_must_see_is_not_refused_from_the_head(
    tiny_models: Path, tmp_path: Path
) -> None:
    seen = []

    class Witness:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])
            await self._app(scope, receive, send)

    async with slow_service(tiny_models, tmp_path, Witness, queue_rows=1, max_items=1) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        assert code(await ask(client, "good")) == (429, "overloaded")
        slow.let_go(1)
        assert (await running).status_code == 200
    assert seen.count("http") == 2


def infer(client: httpx.AsyncClient, *texts: str, model: str = "sentiment", **parameters: int) -> Any:
    """Ask by the Open Inference Protocol."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": [*texts]}
    body = {"inputs": [tensor], "parameters": parameters}
    return asyncio.create_task(client.post(f"/v2/models/{model}/infer", json=body))


async def test_tensors_have_the_same_room_and_deadlines(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=2, max_items=2) as (client, slow):
        running = infer(client, "good")
        await slow.wait_entered()
        late = await infer(client, "bad", timeout=20_000)
        assert (late.status_code, late.json()) == (504, {"error": "not run within the deadline of 20 ms"})
        waiting = infer(client, "good")
        await until_queued(client, 2)
        for target in ("sentiment", "sentiment/versions/1"):
            refused = await infer(client, "good", model=target)
            assert (refused.status_code, list(refused.json())) == (429, ["error"])
            assert int(refused.headers["retry-after"]) >= 1
        assert (await infer(client, "good", model="reader")).status_code == 200
        slow.let_go(2)
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        assert slow.rows == 2


async def test_tensors_and_texts_of_v1_share_a_run(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await slow.wait_entered()
        waiting = [ask(client, "good film"), infer(client, "bad film")]
        await until_queued(client, 3)
        slow.let_go(2)
        assert {answer.status_code for answer in await asyncio.gather(running, *waiting)} == {200}
        assert slow.runs == [[1], [2, 2]]


async def test_tensors_are_refused_from_the_head_by_the_model_of_the_path(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=1, max_items=1) as (client, slow):
        running = infer(client, "good")
        await slow.wait_entered()
        async with RawClient.to(client) as raw:
            await raw.send("POST /v2/models/sentiment/infer HTTP/1.1", HOST, "Content-Length: 1000")
            status, headers, body = await raw.answer()
            assert (status, list(json.loads(body))) == (429, ["error"])
            assert "x-request-id" in headers
            await raw.send(body=b"x" * 1000)
            await raw.send("GET /healthz HTTP/1.1", HOST)
            assert (await raw.answer())[0] == 200
        counted = 'baton_requests_total{endpoint="/v2/models/{name}/infer",status="429"} 1.0'
        assert counted in (await client.get("/metrics")).text
        slow.let_go(1)
        assert (await running).status_code == 200
