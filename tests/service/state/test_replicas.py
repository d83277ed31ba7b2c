"""Two replicas behind nginx, round robin: sessions outlive them, whichever way they are spoken to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from balancer import balanced
from conftest import Server

from baton_client import NEW, AsyncClient, Client, StepItem

SESSIONS, STEPS = 100, 200
KILL_AT, GO_ON_AT = STEPS // 3, 2 * STEPS // 3  # the steps between are taken while a replica is away
SHARED = 10  # sessions of one request to /v1/step
CLOSE = 1e-5
ROWS = np.random.default_rng(7).normal(size=(SESSIONS, STEPS, 2)).astype(np.float32)


@pytest.fixture
def balancer(replicas: tuple[Server, Server], tmp_path: Path) -> Iterator[str]:
    with balanced([server.url for server in replicas], tmp_path / "nginx") as nginx:
        yield nginx.url


def uninterrupted(server: Server) -> np.ndarray:
    """Return the outputs of all steps of all sessions. Shapes: [session, step, output]."""
    assert server.url is not None
    with Client(server.url) as client:
        results = client.step_many("stepper", [StepItem(rows) for rows in ROWS], returns="all")
        return np.stack([result.outputs["y"] for result in results])


def steps_served(server: Server) -> float:
    return server.metric("baton_steps_total", "model", "stepper")


class Outage:
    """One replica is killed as soon as a session is far enough, and is back before any goes on past the middle."""

    def __init__(self, replica: Server) -> None:
        self._replica = replica
        self._begun, self._over = asyncio.Event(), asyncio.Event()
        self.served_before = 0.0

    async def happen(self) -> None:
        await self._begun.wait()
        self.served_before = await asyncio.to_thread(steps_served, self._replica)
        await asyncio.to_thread(self._replica.kill)
        await asyncio.to_thread(self._replica.start)
        self._over.set()

    async def reached(self, step: int) -> None:
        """Tell that a session is about to take this step."""
        if step == KILL_AT:
            self._begun.set()
        if step == GO_ON_AT:
            await self._over.wait()


@pytest.mark.anyio
async def test_100_sessions_of_200_steps_outlive_a_replica_over_http(
    replicas: tuple[Server, Server], balancer: str
) -> None:
    one, other = replicas
    expected = await asyncio.to_thread(uninterrupted, other)
    other_before = steps_served(other)
    outage = Outage(one)

    async def run(client: AsyncClient, sessions: np.ndarray) -> list[list[np.ndarray]]:
        states, made = [NEW] * len(sessions), []
        for step in range(STEPS):
            await outage.reached(step)
            items = [StepItem(rows[step : step + 1], state) for rows, state in zip(sessions, states, strict=True)]
            results = await client.step_many("stepper", items)
            assert [result.step for result in results] == [step + 1] * len(sessions)
            states = [result.state for result in results]
            made.append([result.outputs["y"] for result in results])
        return made

    async with AsyncClient(balancer) as client:
        groups = np.split(ROWS, SESSIONS // SHARED)
        made, _ = await asyncio.gather(asyncio.gather(*(run(client, group) for group in groups)), outage.happen())

    found = np.concatenate([np.swapaxes(np.array(group), 0, 1) for group in made])
    np.testing.assert_allclose(found, expected, atol=CLOSE)
    assert outage.served_before > 0
    assert steps_served(one) > 0, "the replica that was started again served steps"
    assert steps_served(other) > other_before


@pytest.mark.anyio
async def test_100_streams_of_200_steps_outlive_both_replicas(replicas: tuple[Server, Server], balancer: str) -> None:
    """The first is killed and started again; then the second drains, so that every stream moves to the first."""
    one, other = replicas
    expected = await asyncio.to_thread(uninterrupted, other)
    other_before = other_served = steps_served(other)
    outage = Outage(one)

    async def replace_both() -> None:
        nonlocal other_served
        await outage.happen()
        other_served = await asyncio.to_thread(steps_served, other)
        await asyncio.to_thread(other.stop)

    async def run(client: AsyncClient, rows: np.ndarray) -> list[np.ndarray]:
        async def inputs() -> AsyncIterator[np.ndarray]:
            for step in range(STEPS):
                await outage.reached(step)
                yield rows[step : step + 1]

        async with client.stream("stepper", checkpoint_every=30, binary=True) as stream:
            outputs = [output async for output in stream.map(inputs())]
        assert [output.step for output in outputs] == list(range(1, STEPS + 1))
        return [output.outputs["y"] for output in outputs]

    async with AsyncClient(balancer) as client:
        made, _ = await asyncio.gather(asyncio.gather(*(run(client, rows) for rows in ROWS)), replace_both())

    np.testing.assert_allclose(np.array(made), expected, atol=CLOSE)
    assert outage.served_before > 0
    assert steps_served(one) > 0, "the replica that was started again served steps"
    assert other_served > other_before
