"""The live forecaster's figures, with forecasts made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.series.metrics import constant_spread
from training.series.nab import Labelled
from training.series.quantiles import LEVELS
from training.tasks.forecast_live import evaluation
from training.tasks.forecast_live.evaluation import (
    AFTERMATH,
    LIVE_WARM_UP,
    STEPS_PER_CALL,
    anomaly_figure,
    ask_streams,
    inject,
    live_figures,
    nab_figure,
    relative_steps,
)


@pytest.fixture(scope="module")
def ett() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(17420, 7)).cumsum(axis=0)


def test_the_best_constant_spread_reaches_its_own_floor(ett):
    """A stream that answers the last value with the spread fitted on the test part gives the floor exactly."""
    asked: list[np.ndarray] = []

    def stream(streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(streams)
        spreads = [constant_spread(channel) for channel in ett[11519:14400].T]
        return streams[..., None] + np.stack(spreads)[:, None], np.where(
            np.arange(streams.size).reshape(streams.shape) % 4, 0.0, 2.0
        )

    figures = {figure.name.removeprefix("etth1_test_"): figure for figure in live_figures(ett, stream)}
    best, fitted_before = figures["pinball"], figures["pinball_vs_training_fit"]
    assert best.value == best.floor
    assert fitted_before.value <= fitted_before.floor
    for level in (80, 90, 95):
        assert figures[f"coverage_{level}"].value == pytest.approx(level / 100, abs=0.01)
    assert figures["share_of_anomaly_above_1"].value == 0.25
    assert np.array_equal(asked[0], ett[11520 - LIVE_WARM_UP : 14400].T)


def test_the_relative_step_reaches_its_own_floor(ett):
    """Scoring by the floor's own method gives the floor exactly, well above chance and below certainty."""
    figure = anomaly_figure(ett, lambda streams: (np.zeros((*streams.shape, len(LEVELS))), relative_steps(streams)))
    assert figure.value == figure.floor
    assert 0.8 < figure.value < 1


def test_injection_marks_what_it_changes(ett):
    """Without what is marked, and what follows within the aftermath, every observation keeps its step."""
    streams = ett[:1200].T
    changed, injected, judged = inject(streams, np.ones(7))
    assert injected.sum() == 7 * 6
    assert not injected[:, :LIVE_WARM_UP].any()
    assert judged[injected].all()
    assert (~judged[:, LIVE_WARM_UP:]).sum() == 7 * 6 * AFTERMATH
    moved = np.diff(changed - streams, axis=1)
    kept = judged[:, 1:] & ~injected[:, 1:]
    np.testing.assert_allclose(moved[kept], 0, atol=1e-9)
    assert (np.abs(moved[injected[:, 1:]]) >= 2.99).all()


def test_ask_streams_carries_each_token(monkeypatch):
    """Every call but the first brings the state that the one before it returned for the same stream."""
    states: list[list[str | None]] = []

    def answer(url: str, path: str, field: str, items: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        assert options == {"model": "forecast-live", "return": "all"}
        states.append([item.get("state") for item in items])
        return [
            {
                "outputs": {
                    "quantiles": [[value] * len(LEVELS) for value in item["values"]],
                    "anomaly": item["values"],
                },
                "state": f"row {row} call {len(states)}",
            }
            for row, item in enumerate(items)
        ]

    monkeypatch.setattr("training.tasks.forecast_live.evaluation.ask", answer)
    streams = np.arange(4.0 * STEPS_PER_CALL + 2).reshape(2, -1)
    quantiles, anomaly = ask_streams("http://service", "forecast-live", streams)
    np.testing.assert_array_equal(quantiles[..., 0], streams)
    np.testing.assert_array_equal(anomaly, streams)
    assert states == [[None, None], *([f"row {row} call {call}" for row in (0, 1)] for call in (1, 2))]


def test_the_benchmark_is_scored_by_the_likelihood_beside_a_windowed_gaussian():
    """A stream that reports both windows at once has a hundred; the floor finds the one whose values stand out."""
    values = np.random.default_rng(0).normal(size=400)
    values[200:220] += 50
    marked = [Labelled("made", values, ((200, 219), (300, 319)))]
    figure = nab_figure(marked, lambda streams: [np.isin(np.arange(len(own)), (200, 300)) * 0.9 for own in streams])
    assert figure.value == pytest.approx(100)
    assert 45 < figure.floor < 55


def test_streams_of_any_lengths_are_asked_in_parts(monkeypatch):
    """Each goes on from its own token, and ends where it ends."""
    asked: list[int] = []

    def answer(url: str, path: str, name: str, items: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        asked.append(len(items))
        states = [len(item["values"]) + int(item.get("state", 0)) for item in items]
        return [
            {"outputs": {"likelihood": item["values"]}, "state": str(state)}
            for item, state in zip(items, states, strict=True)
        ]

    monkeypatch.setattr(evaluation, "ask", answer)
    streams = [np.arange(length, dtype=float) for length in (10, STEPS_PER_CALL, 2 * STEPS_PER_CALL + 1)]
    got = evaluation.ask_likelihoods("http://here", "forecast-live", streams)
    for own, stream in zip(got, streams, strict=True):
        np.testing.assert_array_equal(own, stream)
    assert asked == [3, 1, 1]
