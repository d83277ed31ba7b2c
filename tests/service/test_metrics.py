"""Metrics are collected beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import Metric

from service.metrics import Metrics


class Witness:
    """Collects nothing, and keeps on which threads it was asked to, and how many asked at a time at most."""

    def __init__(self, go_on: threading.Event) -> None:
        self.threads: set[int] = set()
        self.active = self.most_active = 0
        self.asked = threading.Event()
        self._go_on = go_on

    def collect(self) -> Iterator[Metric]:
        self.threads.add(threading.get_ident())
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.asked.set()
        self._go_on.wait(10)
        self.active -= 1
        return iter(())


@pytest.mark.anyio
async def test_metrics_are_collected_beside_the_event_loop_and_by_one_thread_at_a_time() -> None:
    metrics, go_on = Metrics(), threading.Event()
    witness = Witness(go_on)
    metrics.registry.register(witness)
    metrics.run_s.labels("stepper", "1").observe(2)
    asked = [asyncio.create_task(metrics.read("baton_run_seconds_sum")) for _ in range(3)]
    rendering = asyncio.create_task(metrics.render())
    await asyncio.to_thread(witness.asked.wait, 10)
    go_on.set()
    assert await asyncio.gather(*asked) == [{("baton_run_seconds_sum", "stepper", "1"): 2}] * 3
    assert b'baton_run_seconds_sum{model="stepper",version="1"} 2.0' in await rendering
    assert witness.most_active == 1
    assert threading.get_ident() not in witness.threads
