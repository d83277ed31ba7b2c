"""A model that is slower than its callers: refusals, deadlines, leavers and fairness, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from service.app import create_app
from service.engine.engine import Engine, Row
from service.settings import Settings

pytestmark = pytest.mark.anyio


class SlowModel:
    """Holds every run of a session until it is let go, and keeps the lengths of the rows of each run."""

    def __init__(self, session: object) -> None:
        self._run = session.run  # type: ignore[attr-defined]
        self.runs: list[list[int]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, names: list[str], feeds: dict) -> list:
        self.entered.release()
        self.open.acquire()
        self.runs.append(feeds["lengths"].tolist())
        return self._run(names, feeds)

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))

    async def wait_entered(self) -> None:
        await asyncio.to_thread(self.entered.acquire)

    def let_go(self, runs: int) -> None:
        for _ in range(runs):
            self.open.release()


@asynccontextmanager
async def slow_service(
    models: Path, state: Path, **settings: int
) -> AsyncIterator[tuple[httpx.AsyncClient, SlowModel]]:
    """Serve on loopback, in this process, so that the test decides when a run of the model ends."""
    app = create_app(Settings(models_dir=models, state_dir=state, **{"run_threads": 1, **settings}))
    session = app.state.service.engines.get("sentiment").model.session
    session.run = slow = SlowModel(session)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = "http://{}:{}".format(*listening.getsockname())
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client, slow
    finally:
        slow.let_go(1000)
        server.should_exit = True
        await serving


def ask(client: httpx.AsyncClient, *texts: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/v1/sentiment", json={"inputs": list(texts)}))


async def until_queued(client: httpx.AsyncClient, rows: int) -> None:
    """Wait until so many rows wait or run."""
    shown = f'baton_queue_rows{{model="sentiment",version="1"}} {rows}.0'
    for _ in range(10_000):
        if shown in (await client.get("/metrics")).text:
            return
    raise AssertionError(f"never saw {shown}")


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
