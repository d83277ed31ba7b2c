"""The forecasters' figures, with forecasts made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.forecast_evaluation import (
    LIVE_WARM_UP,
    STEPS_PER_CALL,
    ask_streams,
    ett_figures,
    live_figures,
    repeated,
    weekly_figures,
)
from training.forecast_metrics import LEVELS, constant_spread


@pytest.fixture(scope="module")
def ett() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(17420, 7)).cumsum(axis=0)


def repeat_last(histories: list[np.ndarray], horizon: int) -> np.ndarray:
    return np.stack([np.full((horizon, len(LEVELS)), history[-1]) for history in histories])


def test_the_last_value_reaches_its_own_floor():
    """Forecasting the last value gives the floor exactly, also from histories longer than the model's."""
    rng = np.random.default_rng(0)
    histories = [100 + rng.normal(size=length).cumsum() for length in (80, 900)]
    figures = {figure.name: figure for figure in weekly_figures(histories, [np.arange(13.0)] * 2, repeat_last)}
    for name in ("m4_weekly_test_mase", "m4_weekly_test_smape"):
        assert figures[name].value == figures[name].floor
    assert figures["m4_weekly_test_coverage_90"].value == 0


def test_repeated_finds_futures_that_stand_elsewhere():
    """A future is known if another history holds it moved and scaled; a constant one, or a new one, is not."""
    rng = np.random.default_rng(0)
    histories = [rng.normal(size=60) for _ in range(3)]
    copied = 2.5 * histories[1][20:34] + 7
    histories[0][-1] = copied[0]
    futures = [copied[1:], np.full(13, histories[1][-1]), rng.normal(size=13)]
    assert repeated(histories, futures).tolist() == [True, False, False]


def test_ett_figures_see_the_past_only(ett):
    """Each history ends where its future begins, within the test part."""
    seen: list[np.ndarray] = []

    def forecast(histories: list[np.ndarray], horizon: int) -> np.ndarray:
        seen.extend(histories)
        return repeat_last(histories, horizon)

    error, _ = ett_figures(ett, forecast)
    assert len(seen) == 7 * 119
    assert np.array_equal(seen[0], ett[11520 - 512 : 11520, 0])
    assert np.array_equal(seen[-1], ett[11520 + 118 * 24 - 512 : 11520 + 118 * 24, 6])
    assert error.floor_method is not None


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

    monkeypatch.setattr("training.forecast_evaluation.ask", answer)
    streams = np.arange(4.0 * STEPS_PER_CALL + 2).reshape(2, -1)
    np.testing.assert_array_equal(ask_streams("http://service", "forecast-live", streams)[..., 0], streams)
    assert states == [[None, None], *([f"row {row} call {call}" for row in (0, 1)] for call in (1, 2))]
