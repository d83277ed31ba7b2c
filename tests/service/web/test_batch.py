"""A request whose items need two model versions: admitted by both, or run by neither."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import tiny

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_request_over_two_versions_is_run_whole_or_not_at_all(tmp_path: Path) -> None:
    models = tmp_path / "models"
    settings = Settings(models_dir=models, state_dir=tmp_path / "state")
    tiny.stepper(models, seed=1)
    old = create_app(settings)
    async with client_of(old) as client, old.router.lifespan_context(old):
        body = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
        state = (await client.post("/v1/step", json=body)).json()["results"][0]["state"]
    tiny.stepper(models, version="2", seed=2)
    both = create_app(settings)
    first, second = both.state.service.engines.all
    async with client_of(both) as client:
        second.batcher.start()
        body["items"].append({"state": state, "inputs": [[1, 2]]})
        answer = await client.post("/v1/step", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        first.batcher.start()
        assert (await client.post("/v1/step", json=body)).json()["summary"] == {"ok": 2, "failed": 0}
        metrics = (await client.get("/metrics")).text
        assert 'baton_batch_rows_sum{model="stepper",version="2"} 1.0' in metrics
        assert 'baton_batch_rows_sum{model="stepper",version="1"} 1.0' in metrics
        for engine in (first, second):
            await engine.batcher.drain()


def client_of(app: object) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://baton")  # type: ignore[arg-type]
