"""A run that asks for more memory than a worker may have fails alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import tiny_wild
from conftest import ServerFactory, baton

BOUND = 1000
GIB = 2**30


def test_a_run_that_asks_for_all_memory_fails_and_the_others_of_its_batch_do_not(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    tiny_wild.exploding_beyond(tmp_path / "models", BOUND)
    tiny.number_stepper(tmp_path / "models")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_WORKER_BYTES=str(2 * GIB), BATON_WORKERS="2")
    items = [{"inputs": [[value, 0]]} for value in (1, BOUND + 1, 2)]
    for _ in range(3):
        first, greedy, last = server.post("/v1/step", {"model": "stepper", "items": items}).json()["results"]
        assert greedy["error"]["code"] == "model_failed"
        assert "error" not in first
        assert "error" not in last
    sound = server.post("/v1/step", {"model": "numbers", "items": [{"values": [1, 1]}]}).json()
    assert sound["results"][0]["outputs"] == {"total": [3.0]}
    assert server.metric("baton_worker_deaths_total") == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bound_that_leaves_runs_too_little_is_refused_at_start(tmp_path: Path, workers: str) -> None:
    tiny.number_stepper(tmp_path / "models")
    settings = {"MODELS_DIR": tmp_path / "models", "STATE_DIR": tmp_path / "state", "WORKERS": workers, "PORT": "0"}
    environment = {f"BATON_{name}": str(value) for name, value in settings.items()}
    ended = baton("serve", BATON_WORKER_BYTES=str(GIB // 4), **environment)
    assert ended.returncode == 1
    assert "BATON_WORKER_BYTES 268435456 is too little: with its models a worker takes" in ended.stderr
