"""/v2/models/stats: counts and times of all workers, whatever way the rows came in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server
from each_worker import each_worker
from streams import Stream

WORKERS = 2
NONE = {"count": 0, "ns": 0}


@pytest.fixture(scope="module")
def pair(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tiny_models, tmp_path_factory.mktemp("state"), BATON_WORKERS=str(WORKERS))
    yield running
    running.stop()


def stats(client: httpx.Client, path: str) -> dict[str, Any]:
    (only,) = client.get(f"/v2/models/{path}/stats").raise_for_status().json()["model_stats"]
    return only


def test_statistics_are_the_sum_of_all_workers_whichever_answers(pair: Server) -> None:
    before_ms = 1000 * time.time() - 1
    with each_worker(pair, WORKERS) as clients:
        for client in clients.values():
            for _ in range(5):
                client.post("/v1/sentiment", json={"inputs": ["a good film", "bad"]}).raise_for_status()
            client.post("/v1/sentiment", json={"inputs": ["good", " "]}).raise_for_status()  # the second has no words
        first, second = (stats(client, "sentiment") for client in clients.values())
    assert first == second
    assert (first["name"], first["version"], first["batch_stats"]) == ("sentiment", "1", [])
    assert first["inference_count"] == WORKERS * (5 * 2 + 1)
    assert WORKERS * 6 <= first["execution_count"] <= first["inference_count"]
    assert before_ms <= first["last_inference"] <= 1000 * time.time() + 1
    times = first["inference_stats"]
    assert {name: times[name]["count"] for name in ("success", "fail", "queue", "compute_infer")} == {
        "success": WORKERS * 5,
        "fail": WORKERS,
        "queue": WORKERS * 6,
        "compute_infer": WORKERS * 6,
    }
    assert min(times[name]["ns"] for name in ("success", "fail", "queue", "compute_infer")) > 0
    assert times["queue"]["ns"] + times["compute_infer"]["ns"] == times["success"]["ns"] + times["fail"]["ns"]
    within = {"count": WORKERS * 6, "ns": 0}
    assert [times[name] for name in ("compute_input", "compute_output")] == [within] * 2
    assert [times[name] for name in ("cache_hit", "cache_miss")] == [NONE] * 2


def test_steps_and_frames_of_streams_count_too(pair: Server) -> None:
    body = {"model": "numbers", "items": [{"values": [1, 2]}, {"values": [3]}]}
    pair.post("/v1/step", body).raise_for_status()
    with Stream(pair, "numbers") as stream:
        for _ in range(3):
            stream.send(values=[1])
            stream.frame()
    counted = stats(pair.client, "numbers")
    assert counted["inference_count"] == 2 + 3
    assert counted["inference_stats"]["success"]["count"] == 1 + 3


def test_what_has_not_run_has_zeros(pair: Server) -> None:
    idle = stats(pair.client, "forecast/versions/1")
    assert (idle["inference_count"], idle["execution_count"], idle["last_inference"]) == (0, 0, 0)
    assert all(duration == NONE for duration in idle["inference_stats"].values())


def test_statistics_are_of_all_models_of_one_or_of_a_version(pair: Server) -> None:
    everything = pair.client.get("/v2/models/stats").json()["model_stats"]
    assert [line["name"] for line in everything] == ["forecast", "numbers", "reader", "sentiment", "stepper"]
    assert stats(pair.client, "stepper") == stats(pair.client, "stepper/versions/1") == everything[-1]


@pytest.mark.parametrize(
    ("path", "says"),
    [("nope", "no model is called 'nope'"), ("stepper/versions/2", "has no version '2' here; it has 1")],
)
def test_statistics_of_what_is_not_loaded_are_refused(pair: Server, path: str, says: str) -> None:
    answer = pair.client.get(f"/v2/models/{path}/stats")
    assert answer.status_code == 404
    assert says in answer.json()["error"]
