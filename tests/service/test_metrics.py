"""Metrics are collected beside the event loop, and are there before what they count."""

from __future__ import annotations

import asyncio
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import ServerFactory
from here import Clock, serve_here
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from streams import Stream
from turns import nobody_may_write

from service.metrics import Metrics
from service.settings import Settings

FAILURES = {
    "baton_rejected_total",
    "baton_item_errors_total",
    "baton_tokens_rejected_total",
    "baton_streams_closed_total",
    "baton_store_failures_total",
    "baton_evictions_total",
    "baton_reloads_total",
}


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


def test_what_is_refused_or_fails_was_there_at_0_before(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """A query over time takes the first value of a series for its beginning, and would not see the first event."""
    models = Path(shutil.copytree(tiny_models, tmp_path / "models"))
    server = start_server(models, tmp_path / "state", BATON_STORE="memory", BATON_STORE_BYTES="2000")
    before = failures(server.client.get("/metrics").text)
    server.client.post("/v1/sentiment", content="{")
    server.client.get("/v1/none")
    for item in ({"values": [1], "state": "%"}, {"values": [1], "state": "AAAA"}, {"values": []}, {"values": "text"}):
        server.post("/v1/step", {"model": "numbers", "items": [item, {"values": [1]}]})
    for number in range(20):
        server.post("/v1/step", {"model": "numbers", "items": [{"values": [number]}], "hold": "server"})
    with Stream(server, "numbers") as stream:
        stream.ask(values="text")
        stream.connection.send("{")
        stream.frame()
        stream.connection.close(1000)
    for code in (1001, 4000):
        with Stream(server, "numbers") as stream:
            stream.connection.close(code)
    with Stream(server, first="{") as stream:
        stream.end()
    (models / "sentiment" / "2").mkdir()
    start = server.mark()
    server.process.send_signal(signal.SIGHUP)
    server.lines_since(start, until="not reloaded")
    after = failures(server.client.get("/metrics").text)
    counted = {series for series, count in after.items() if count}
    assert {name for name, _ in counted} == FAILURES - {"baton_store_failures_total"}
    closed = {value for name, value in counted if name == "baton_streams_closed_total"}
    assert closed == {"1000", "1001", "1008", "other"}
    assert {series: before.get(series) for series in counted} == dict.fromkeys(counted, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["embedded", "redis://127.0.0.1:1/0"])
async def test_the_first_call_of_a_store_that_fails_was_there_at_0_before(
    tiny_models: Path, tmp_path: Path, store: str
) -> None:
    settings = Settings(models_dir=tiny_models, state_dir=tmp_path, store=store)
    async with serve_here(settings, Clock()) as (client, _):
        before = failures((await client.get("/metrics")).text)
        held = {"model": "numbers", "items": [{"values": [1]}], "hold": "server"}
        with nobody_may_write(tmp_path) if store == "embedded" else nullcontext():
            assert (await client.post("/v1/step", json=held)).status_code == 503
        after = failures((await client.get("/metrics")).text)
    saving = ("baton_store_failures_total", "save")
    assert (before[saving], after[saving]) == (0, 1)


def failures(text: str) -> dict[tuple[str, str], float]:
    """Return the counts of what was refused or failed, by metric and the value of its one label."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(one.name, next(iter(one.labels.values()))): one.value for one in samples if one.name in FAILURES}
