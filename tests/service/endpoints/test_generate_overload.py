"""Generation while the model has other work: refused at the door, waited for, and ended midway with its states."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from slow import RawClient, slow_service, until_queued, until_shown

pytestmark = pytest.mark.anyio

ENDPOINTS = [
    ("/v1/generate", {"items": [{"prompt": "a"}]}),
    ("/v1/completions", {"prompt": "a"}),
]


def generate(client: httpx.AsyncClient, prompt: str, **options: Any) -> asyncio.Task[httpx.Response]:
    body = {"model": "generator", "items": [{"prompt": prompt}], "seed": 1, **options}
    return asyncio.create_task(client.post("/v1/generate", json=body))


async def check_goes_on(client: httpx.AsyncClient, answer: httpx.Response, prompt: str, code: str, steps: int) -> None:
    """Check that an answer ended with an error after so many steps, and that its state goes on from there."""
    (result,) = answer.json()["results"]
    (choice,) = result["choices"]
    assert answer.json()["error"]["code"] == result["error"]["code"] == code
    assert (choice["steps"], choice["finish"]) == (steps, "error")
    on = {"model": "generator", "items": [{"state": choice["state"]}], "seed": 1, "max_steps": 4}
    rest = (await client.post("/v1/generate", json=on)).json()["results"][0]["choices"][0]
    whole = (await generate(client, prompt, max_steps=steps + 4)).json()["results"][0]["choices"][0]
    assert choice["text"] + rest["text"] == whole["text"]


async def test_a_deadline_in_the_middle_ends_a_generation_with_its_state(writer_models: Path, tmp_path: Path) -> None:
    """A run takes one row, so that the next id waits for the other's prompt and does not join it."""
    async with slow_service(writer_models, tmp_path, model="generator", batch_cells=1) as (client, slow):
        late = generate(client, "abc", timeout_ms=1000)
        for _ in range(3):  # the prompt, and two ids
            await slow.wait_entered()
            slow.let_go(1)
        await slow.wait_entered()
        other = generate(client, "d", max_steps=1)
        await until_queued(client, 2, "generator")
        slow.let_go(1)  # the third id, in the run of the second, and then the other's prompt has the model
        answer = await late
        assert answer.status_code == 504
        slow.let_go(1000)
        assert (await other).status_code == 200
        await check_goes_on(client, answer, "abc", "deadline", 3)


async def test_a_queue_that_stays_full_ends_a_generation_with_its_state(writer_models: Path, tmp_path: Path) -> None:
    """Room is given in turn: first to the two choices that came before its fourth id."""
    async with slow_service(writer_models, tmp_path, model="generator", queue_rows=2, max_items=2) as (client, slow):
        late = generate(client, "abc", timeout_ms=4000)
        await slow.wait_entered()
        slow.let_go(1)
        await slow.wait_entered()  # its first id
        other = generate(client, "d", n=2, max_steps=1)
        await until_queued(client, 2, "generator")
        for _ in range(2):  # the other's prompt, then the second id
            slow.let_go(1)
            await slow.wait_entered()
        await until_shown(client, "baton_generations 2.0")  # the other's two choices wait for room
        slow.let_go(2)  # the third has the same run
        answer = await late
        assert answer.status_code == 429
        slow.let_go(1000)
        assert (await other).status_code == 200
        await check_goes_on(client, answer, "abc", "overloaded", 3)


@pytest.mark.parametrize("body_comes_along", [True, False])
@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
async def test_a_request_whose_first_row_has_no_room_is_refused_at_the_door(
    writer_models: Path, tmp_path: Path, path: str, body: dict[str, Any], body_comes_along: bool
) -> None:
    """With its head where the body came along, else once the body names the model."""
    content = json.dumps({"model": "generator", **body}).encode()
    head = (f"POST {path} HTTP/1.1", "Host: service", "Content-Type: application/json")
    async with slow_service(writer_models, tmp_path, model="generator", queue_rows=1, max_items=1) as (client, slow):
        running = generate(client, "abc", max_steps=2)
        await slow.wait_entered()
        async with RawClient.to(client) as raw:
            await raw.send(*head, f"Content-Length: {len(content)}", body=content if body_comes_along else b"")
            await client.get("/healthz")
            if not body_comes_along:
                await raw.send(body=content)
            status, headers, answer = await raw.answer()
        assert (status, json.loads(answer)["error"]["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        slow.let_go(1000)
        assert (await running).status_code == 200
