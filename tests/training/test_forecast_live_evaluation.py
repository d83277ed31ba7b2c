"""The live forecaster's figures, with forecasts made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.forecast_live_evaluation import LIVE_WARM_UP, STEPS_PER_CALL, ask_streams, live_figures
from training.forecast_metrics import LEVELS, constant_spread


@pytest.fixture(scope="module")
def ett() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(17420, 7)).cumsum(axis=0)


def test_the_best_constant_spread_reaches_its_own_floor(ett):
    """A stream that answers the last value with the spread fitted on the test part gives the floor exactly."""
    asked: list[np.ndarray] = []

    def stream(streams: np.ndarray) -> np.ndarray:
        asked.append(streams)
        spreads = [constant_spread(channel) for channel in ett[11519:14400].T]
        return streams[..., None] + np.stack(spreads)[:, None]

    best, fitted_before, covered = live_figures(ett, stream)
    assert best.value == best.floor
    assert fitted_before.value <= fitted_before.floor
    assert covered.value == pytest.approx(0.9, abs=0.01)
    assert np.array_equal(asked[0], ett[11520 - LIVE_WARM_UP : 14399].T)


def test_ask_streams_carries_each_token(monkeypatch):
    """Every call but the first brings the state that the one before it returned for the same stream."""
    states: list[list[str | None]] = []

    def answer(url: str, path: str, field: str, items: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        assert options == {"model": "forecast-live", "return": "all"}
        states.append([item.get("state") for item in items])
        return [
            {
                "outputs": {"quantiles": [[value] * len(LEVELS) for value in item["values"]]},
                "state": f"row {row} call {len(states)}",
            }
            for row, item in enumerate(items)
        ]

    monkeypatch.setattr("training.forecast_live_evaluation.ask", answer)
    streams = np.arange(4.0 * STEPS_PER_CALL + 2).reshape(2, -1)
    np.testing.assert_array_equal(ask_streams("http://service", "forecast-live", streams)[..., 0], streams)
    assert states == [[None, None], *([f"row {row} call {call}" for row in (0, 1)] for call in (1, 2))]
