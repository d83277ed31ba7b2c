"""The soak's requests are answered, and what grows or is left behind is told from what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.requirements import BenchError
from loadtests.shapes import Shapes
from loadtests.soak import GROWTH, growth, run, summary, verdict


def test_memory_that_grows_after_the_start_is_told_from_memory_that_settles() -> None:
    assert growth([100, 150, 170, 170, 170, 171, 170, 170]) == pytest.approx(1, abs=0.01)
    assert growth([100, 110, 120, 130, 140, 150, 160, 170]) > GROWTH


def test_a_soak_answers_every_request_and_leaves_nothing(data_dir: Path) -> None:
    result = run(data_dir, seconds=8)
    assert set(result["done"]) == {"requests", "streams", "events", "vanished"}
    assert all(sample["memory_mb"] > 10 and sample["tasks"] > 0 for sample in result["samples"])
    assert result["left"] == {}
    kept = {**result, "growth": {"memory": 1.0, "descriptors": 1.0}}
    assert "to be left: met." in summary(kept)
    assert verdict({**kept, "growth": {"memory": 1.2, "descriptors": 1.0}}) == ["memory grew: 1.200"]
    assert "**missed**, left behind: baton_streams 2." in summary({**kept, "left": {"baton_streams": 2}})


def test_a_request_that_is_refused_fails_the_soak(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shapes, "draw", lambda _: ("/v1/sentiment", {"inputs": ["good", ""]}))
    with pytest.raises(BenchError, match=r"a request to /v1/sentiment was answered 200.*no words"):
        run(data_dir, seconds=60)


def test_every_kind_of_request_is_drawn_and_steps_go_on_from_the_tokens_of_earlier_ones(data_dir: Path) -> None:
    shapes = Shapes(data_dir, seed=0)
    drawn = [shapes.draw() for _ in range(400)]
    assert {path for path, _ in drawn} == {
        *(f"/v1/{name}" for name in ("sentiment", "classify", "tag", "forecast", "transform", "step")),
        *("/v1/generate", "/v1/completions", "/v2/models/spam/infer", "/v2/models/forecast-live/infer"),
    }
    bodies = [body for path, body in drawn if path == "/v1/step"]
    assert not any("state" in item for body in bodies for item in body["items"])
    for model in ("forecast-live", "sentiment-live"):
        shapes.keep({"model": model, "items": []}, {"results": [{"state": f"of {model}"}]})
    resumed = [body for path, body in (shapes.draw() for _ in range(400)) if path == "/v1/step"]
    carried = {(body["model"], item["state"]) for body in resumed for item in body["items"] if "state" in item}
    assert carried == {("forecast-live", "of forecast-live"), ("sentiment-live", "of sentiment-live")}
