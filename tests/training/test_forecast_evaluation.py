"""The forecaster's figures, with forecasts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.forecast_evaluation import ett_figures, repeated, weekly_figures
from training.forecast_metrics import LEVELS


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
