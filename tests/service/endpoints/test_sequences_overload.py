"""Tagging, transforming and classifying while the model has other work: refused, late, and left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from slow import slow_service, until_queued

pytestmark = pytest.mark.anyio

VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
CALLS = [
    ("tagger", "/v1/tag", {"inputs": ["one two"]}),
    ("cleaner", "/v1/transform", {"items": [{"values": VALUES}]}),
    ("listener", "/v1/classify", {"items": [{"values": VALUES}]}),
]


@pytest.mark.parametrize(("model", "path", "body"), CALLS, ids=[path for _, path, _ in CALLS])
async def test_who_is_refused_late_or_gone_is_never_run_and_strands_nobody(
    sequence_models: Path, tmp_path: Path, model: str, path: str, body: dict[str, Any]
) -> None:
    body = {"model": model, **body}
    async with slow_service(sequence_models, tmp_path, model=model, queue_rows=3, max_items=3) as (client, slow):
        running = asyncio.create_task(client.post(path, json=body))
        await slow.wait_entered()
        late = await client.post(path, json={**body, "timeout_ms": 20})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline")
        await until_queued(client, 1, model)
        leaver, waiting = (asyncio.create_task(client.post(path, json=body)) for _ in range(2))
        await until_queued(client, 3, model)
        refused = await client.post(path, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        leaver.cancel()
        await until_queued(client, 2, model)
        slow.let_go(2)
        assert [(await task).json()["summary"]["ok"] for task in (running, waiting)] == [1, 1]
        assert slow.rows == 2
        left = f'baton_requests_total{{endpoint="{path}",status="499"}} 1.0'
        assert left in (await client.get("/metrics")).text
