"""What is promised of a state that is a value: it branches at will, cannot be forged, and costs the service nothing."""

from __future__ import annotations

import base64
import gc
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
from conftest import Server
from here import Clock, serve_here
from keyring import Keyring

from service.settings import Settings

pytestmark = pytest.mark.anyio

TTL_S = 3600
KEYS = Keyring("acme", "umbrella")
TOLERANCE = 1e-5  # a batch rounds differently from a single row


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


async def codes(
    client: httpx.AsyncClient, states: Iterable[str], model: str = "stepper", tenant: str = "acme"
) -> list[str]:
    """Return what became of each state: the code of its error, or "ok"."""
    states, found = list(states), []
    for start in range(0, len(states), 1000):
        items = [{"state": state, "inputs": [[1, 2]]} for state in states[start : start + 1000]]
        headers = KEYS.header(tenant)
        answer = await client.post("/v1/step", json={"model": model, "items": items}, headers=headers)
        assert answer.status_code < 500
        found += [result["error"]["code"] if "error" in result else "ok" for result in answer.json()["results"]]
    assert len(found) == len(states)
    return found


async def test_a_token_that_was_tampered_with_is_refused_with_the_right_code(tmp_path: Path) -> None:
    """Every bit flipped, every truncation, every other model and tenant, past and future times."""
    models, clock = tmp_path / "models", Clock()
    issued = clock.now
    for name, seed in (("stepper", 3), ("other", 4), ("doomed", 5)):
        tiny.stepper(models, name=name, seed=seed)
    settings = Settings(models_dir=models, state_dir=tmp_path / "state", state_ttl_s=TTL_S, api_keys=KEYS.entries)
    async with serve_here(settings, clock) as (client, _):

        async def begin(model: str) -> str:
            headers = KEYS.header("acme")
            body = {"model": model, "items": [{"inputs": [[1, 2]]}]}
            answer = await client.post("/v1/step", json=body, headers=headers)
            state: str = answer.json()["results"][0]["state"]
            return state

        state, doomed = await begin("stepper"), await begin("doomed")
        raw = base64.urlsafe_b64decode(state)
        assert await codes(client, [state]) == ["ok"]

        flipped = [raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :] for i in range(len(raw)) for bit in range(8)]
        assert set(await codes(client, map(encode, flipped))) == {"state_invalid"}
        truncated = [encode(raw[:size]) for size in range(len(raw))] + [state[:size] for size in range(len(state))]
        truncated += [encode(raw[size:]) for size in range(1, len(raw))]
        assert set(await codes(client, truncated)) == {"state_invalid"}
        longer = [encode(raw + more) for more in (b"\0", b"\0\0\0", raw)]
        assert set(await codes(client, longer)) == {"state_invalid"}
        assert await codes(client, [state], model="other") == ["state_wrong_model"]
        assert await codes(client, [state], tenant="umbrella") == ["state_invalid"]

        for now, code in (
            (issued + TTL_S - 0.001, "ok"),
            (issued + TTL_S, "state_expired"),
            (issued + 100 * TTL_S, "state_expired"),
            (issued - 30, "ok"),  # replicas' clocks differ a little
        ):
            clock.now = now
            assert await codes(client, [state]) == [code], now
    clock.now = issued
    for file in (models / "doomed" / "1").iterdir():
        file.unlink()
    (models / "doomed" / "1").rmdir()
    (models / "doomed").rmdir()
    async with serve_here(settings, clock) as (client, _):
        assert await codes(client, [doomed]) == ["state_model_gone"]


async def test_a_token_from_a_clock_that_is_ahead_is_taken_once_its_time_has_come(tmp_path: Path) -> None:
    tiny.stepper(tmp_path / "models")
    keep = {"models_dir": tmp_path / "models", "state_dir": tmp_path / "state", "store": "memory"}
    ahead, behind = Clock(), Clock()
    behind.now = ahead.now - 120

    async with (
        serve_here(Settings(**keep), ahead) as (maker, _),
        serve_here(Settings(**keep), behind) as (reader, _),
        serve_here(Settings(**keep, clock_skew_s=120), behind) as (tolerant, _),
    ):

        async def step(client: httpx.AsyncClient, **state: str) -> httpx.Response:
            return await client.post("/v1/step", json={"items": [{"inputs": [[1, 2]], **state}]})

        state = (await step(maker)).json()["results"][0]["state"]
        early = await step(reader, state=state)
        error = early.json()["error"]
        assert (early.status_code, error["code"]) == (503, "state_from_future")
        assert (error["retry_after_ms"], early.headers["retry-after"]) == (60_000, "60")
        assert error["field"] == "items[0].state"
        assert 'baton_tokens_rejected_total{reason="from_the_future"} 1.0' in (await reader.get("/metrics")).text
        assert (await step(tolerant, state=state)).status_code == 200
        behind.now += 60
        assert (await step(reader, state=state)).json()["results"][0]["step"] == 2


def test_sixty_four_children_of_one_token_each_go_their_own_way(server: Server) -> None:
    """Each child equals its own run from the beginning, uninterrupted, whether forked one by one or in one request."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(10, 2)).round(3)
    own = rng.normal(size=(64, 5, 2)).round(3)

    def steps(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answer = server.post("/v1/step", {"model": "stepper", "items": items, "return": "all"}).json()
        assert answer["summary"]["failed"] == 0
        return answer["results"]

    uninterrupted = [steps([{"inputs": [*common.tolist(), *child.tolist()]}])[0] for child in own]
    parent = steps([{"inputs": common.tolist()}])[0]["state"]
    together = steps([{"state": parent, "inputs": child.tolist()} for child in own])
    one_by_one = [steps([{"state": parent, "inputs": child.tolist()}])[0] for child in own]
    for whole, *forks in zip(uninterrupted, together, one_by_one, strict=True):
        for fork in forks:
            assert fork["step"] == whole["step"] == 15
            np.testing.assert_allclose(fork["outputs"]["y"], whole["outputs"]["y"][10:], atol=TOLERANCE)
    assert len({str(fork["outputs"]["y"]) for fork in together}) == 64
    again = steps([{"state": fork["state"], "inputs": [[0, 0]]} for fork in together])
    after = steps([{"state": whole["state"], "inputs": [[0, 0]]} for whole in uninterrupted])
    for fork, whole in zip(again, after, strict=True):
        np.testing.assert_allclose(fork["outputs"]["y"], whole["outputs"]["y"], atol=TOLERANCE)


async def test_sessions_that_clients_carry_take_no_memory(tmp_path: Path) -> None:
    """50,000 sessions begin, take another step and live on in their clients; the service keeps nothing of them."""
    tiny.stepper(tmp_path / "models")
    settings = Settings(models_dir=tmp_path / "models", state_dir=tmp_path / "state", log_level="error")
    async with serve_here(settings, Clock()) as (client, _):

        async def begin(sessions: int) -> None:
            for _ in range(sessions // 1000):
                items: list[dict[str, Any]] = [{"inputs": [[1, 2]]}] * 1000
                for _ in range(2):
                    answer = await client.post("/v1/step", json={"model": "stepper", "items": items})
                    assert answer.json()["summary"]["ok"] == 1000
                    items = [{"state": r["state"], "inputs": [[3, 4]]} for r in answer.json()["results"]]

        def held() -> int:
            gc.collect()
            return sys.getallocatedblocks()

        await begin(10_000)
        before = held()
        await begin(50_000)
        assert held() - before < 1_000, "an object for one session in fifty is not nothing"
