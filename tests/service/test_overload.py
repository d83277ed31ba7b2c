"""A model that is slower than its callers: refusals, deadlines and leavers, through the HTTP interface."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio


class SlowModel:
    """Holds every run of a session until it is let go, and counts the rows that were run."""

    def __init__(self, session: object) -> None:
        self._run, self.rows = session.run, 0  # type: ignore[attr-defined]
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, names: list[str], feeds: dict) -> list:
        self.entered.release()
        self.open.acquire()
        self.rows += len(feeds["lengths"])
        return self._run(names, feeds)


@asynccontextmanager
async def slow_service(
    models: Path, state: Path, **settings: int
) -> AsyncIterator[tuple[httpx.AsyncClient, SlowModel]]:
    app = create_app(Settings(models_dir=models, state_dir=state, **settings))
    session = app.state.service.engines.get("sentiment").model.session
    session.run = slow = SlowModel(session)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baton", timeout=30) as client,
    ):
        yield client, slow
        for _ in range(100):
            slow.open.release()


def ask(client: httpx.AsyncClient, *texts: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/v1/sentiment", json={"inputs": list(texts)}))


async def until_queued(client: httpx.AsyncClient, rows: int) -> None:
    """Wait until so many rows wait or run."""
    shown = f'baton_queue_rows{{model="sentiment",version="1"}} {rows}.0'
    for _ in range(10_000):
        if shown in (await client.get("/metrics")).text:
            return
        await asyncio.sleep(0)  # the transport has no socket to wait for, so nothing else would run
    raise AssertionError(f"never saw {shown}")


async def test_a_full_queue_is_429_with_retry_after_and_harms_nobody_who_waits(
    tiny_models: Path, tmp_path: Path
) -> None:
    async with slow_service(tiny_models, tmp_path, queue_rows=3, max_items=3) as (client, slow):
        running = ask(client, "good")
        await asyncio.to_thread(slow.entered.acquire)
        waiting = ask(client, "good", "bad")
        await until_queued(client, 3)
        refused = await ask(client, "good", "bad")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["limit"] == 3
        for _ in range(2):
            slow.open.release()
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        assert slow.rows == 3


async def test_past_its_deadline_a_request_is_504_and_never_run(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path, timeout_ms=50) as (client, slow):
        running = ask(client, "good")
        await asyncio.to_thread(slow.entered.acquire)
        late = ask(client, "bad", "bad")
        await until_queued(client, 3)
        await asyncio.sleep(0.1)  # twice the deadline: through HTTP there is no clock to inject
        slow.open.release()
        answer = await late
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline")
        assert (await running).status_code == 200
        assert slow.rows == 1


async def test_a_caller_that_is_cancelled_is_never_run_and_strands_nobody(tiny_models: Path, tmp_path: Path) -> None:
    async with slow_service(tiny_models, tmp_path) as (client, slow):
        running = ask(client, "good")
        await asyncio.to_thread(slow.entered.acquire)
        before, leaver, after = ask(client, "good"), ask(client, "bad", "bad"), ask(client, "very good")
        await until_queued(client, 5)
        leaver.cancel()
        for _ in range(2):
            slow.open.release()
        assert [(await task).json()["summary"]["ok"] for task in (running, before, after)] == [1, 1, 1]
        assert slow.rows == 3
