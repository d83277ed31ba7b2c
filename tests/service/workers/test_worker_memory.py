"""A run that asks for more memory than a worker may have fails alone."""

from __future__ import annotations

from pathlib import Path

import tiny
import tiny_wild
from conftest import ServerFactory

BOUND = 1000
GIB = 2**30


def test_a_run_that_asks_for_all_memory_fails_and_the_others_of_its_batch_do_not(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny_wild.exploding_beyond(tmp_path / "models", BOUND)
    tiny.number_stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_WORKER_BYTES=str(2 * GIB))
    items = [{"inputs": [[value, 0]]} for value in (1, BOUND + 1, 2)]
    for _ in range(3):
        first, greedy, last = server.post("/v1/step", {"model": "stepper", "items": items}).json()["results"]
        assert greedy["error"]["code"] == "model_failed"
        assert "error" not in first
        assert "error" not in last
    sound = server.post("/v1/step", {"model": "numbers", "items": [{"values": [1, 1]}]}).json()
    assert sound["results"][0]["outputs"] == {"total": [3.0]}
    assert server.metric("baton_worker_deaths_total") == 0
