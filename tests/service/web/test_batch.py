"""A request whose items need two model versions: admitted by both, or run by neither; and left by its client."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny
from fastapi import FastAPI

from service.app import create_app
from service.engine.rows import Answer, Row
from service.settings import Settings
from service.web.batch import Job, show_each
from service.web.context import PEER, Peer
from service.web.turns import TURN_S

pytestmark = pytest.mark.anyio


async def app_and_body(tmp_path: Path) -> tuple[FastAPI, dict[str, Any]]:
    """Return a service of two versions, whose engines have not started, and a body for /v1/step that needs both."""
    models = tmp_path / "models"
    settings = Settings(models_dir=models, state_dir=tmp_path / "state")
    tiny.stepper(models, seed=1)
    old = create_app(settings)
    body: dict[str, Any] = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
    async with client_of(old) as client, old.router.lifespan_context(old):
        state = (await client.post("/v1/step", json=body)).json()["results"][0]["state"]
    tiny.stepper(models, version="2", seed=2)
    body["items"].append({"state": state, "inputs": [[1, 2]]})
    return create_app(settings), body


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baton")


async def test_a_request_over_two_versions_is_run_whole_or_not_at_all(tmp_path: Path) -> None:
    app, body = await app_and_body(tmp_path)
    first, second = app.state.service.engines.all
    async with client_of(app) as client:
        second.batcher.start()
        answer = await client.post("/v1/step", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        first.batcher.start()
        assert (await client.post("/v1/step", json=body)).json()["summary"] == {"ok": 2, "failed": 0}
        metrics = (await client.get("/metrics")).text
        assert 'baton_batch_rows_sum{model="stepper",version="2"} 1.0' in metrics
        assert 'baton_batch_rows_sum{model="stepper",version="1"} 1.0' in metrics
        for engine in (first, second):
            await engine.batcher.drain()


async def test_a_client_that_leaves_when_one_version_has_answered_waits_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, body = await app_and_body(tmp_path)
    slow, quick = app.state.service.engines.all
    run, let_go = slow.model.session.run, threading.Event()
    answered, peer = asyncio.Event(), Peer()

    def wait_and_run(*given: Any) -> Any:
        let_go.wait()
        return run(*given)

    monkeypatch.setattr(slow.model.session, "run", wait_and_run)
    monkeypatch.setattr(quick.metrics, "answered", lambda *times, failed: answered.set())
    for engine in (slow, quick):
        engine.batcher.start()
    async with client_of(app) as client:
        posting = asyncio.create_task(post(peer, app, body))
        await answered.wait()
        peer.leave()
        await posting  # while the slow version still runs
        metrics = (await client.get("/metrics")).text
        assert 'baton_requests_total{endpoint="/v1/step",status="499"} 1.0' in metrics
        let_go.set()
        for engine in (slow, quick):
            await engine.batcher.drain()


async def test_the_items_of_a_client_that_left_before_they_were_read_never_run(tmp_path: Path) -> None:
    app, body = await app_and_body(tmp_path)
    peer = Peer()
    async with client_of(app) as client, app.router.lifespan_context(app):
        peer.leave()
        await post(peer, app, body)
        metrics = (await client.get("/metrics")).text
    assert 'baton_requests_total{endpoint="/v1/step",status="499"} 1.0' in metrics
    assert re.findall(r"^baton_batch_rows_count\S* (\S+)", metrics, re.MULTILINE) == ["0.0", "0.0"]


async def post(peer: Peer, app: FastAPI, body: dict[str, Any]) -> None:
    """Send `body` as a client that takes no answer: it is gone when there is one."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError(f"nobody is there to take {message}")

    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": "/v1/step", "query_string": b""}
    headers = [(b"content-type", b"application/json")]
    await app({**scope, "headers": headers, PEER: peer}, receive, send)  # type: ignore[arg-type]


async def test_others_have_their_turn_while_a_large_answer_is_shown() -> None:
    turns: list[int] = []

    def show(job: Job, answer: Answer) -> dict[str, Any]:
        asyncio.get_running_loop().call_soon(turns.append, len(turns))
        ends = time.monotonic() + 2 * TURN_S
        while time.monotonic() < ends:
            pass
        return {"turns": len(turns)}

    job = Job(None, Row(), None)  # type: ignore[arg-type] # no engine is asked
    shown = await show_each([job] * 3, [Answer({}, b"")] * 3, show)
    assert shown == [{"turns": 0}, {"turns": 1}, {"turns": 2}]
