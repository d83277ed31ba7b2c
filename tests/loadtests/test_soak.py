"""The soak's requests are answered, and memory that grows is told from memory that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.requirements import BenchError
from loadtests.soak import GROWTH, Shapes, growth, run, summary


def test_memory_that_grows_after_the_start_is_told_from_memory_that_settles() -> None:
    assert growth([100, 150, 170, 170, 170, 171, 170, 170]) == pytest.approx(1, abs=0.01)
    assert growth([100, 110, 120, 130, 140, 150, 160, 170]) > GROWTH


def test_a_soak_answers_every_request_and_samples_memory(data_dir: Path) -> None:
    result = run(data_dir, requests=24)
    assert sorted(number for number, _ in result["samples"]) == list(range(1, 25))
    assert all(resident > 10 for _, resident in result["samples"])
    assert "24 requests" in summary(result)
    assert "**missed**" in summary({**result, "growth": 1.2})


def test_a_request_that_is_refused_fails_the_soak(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shapes, "draw", lambda _: ("/v1/sentiment", {"inputs": ["good", ""]}))
    with pytest.raises(BenchError, match=r"request \d to /v1/sentiment was answered 200.*no words"):
        run(data_dir, requests=4)


def test_later_steps_go_on_from_the_tokens_of_earlier_ones(data_dir: Path) -> None:
    shapes = Shapes(data_dir, seed=0)
    bodies = [body for _, body in (shapes.draw() for _ in range(40)) if "items" in body]
    assert not any("state" in item for body in bodies for item in body["items"])
    for model in ("forecast-live", "sentiment-live"):
        shapes.keep({"model": model, "items": []}, {"results": [{"state": f"of {model}"}]})
    resumed = [body for _, body in (shapes.draw() for _ in range(40)) if "items" in body]
    carried = {(body["model"], item["state"]) for body in resumed for item in body["items"] if "state" in item}
    assert carried == {("forecast-live", "of forecast-live"), ("sentiment-live", "of sentiment-live")}
