"""The forecaster's figures, with forecasts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.series.quantiles import LEVELS
from training.tasks.forecast.evaluation import clean_figures, coverages, ett_figures, repeated, weekly_figures


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
    assert figures["m4_weekly_test_coverage_80"].value == 0


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

    figures = {figure.name: figure for figure in ett_figures(ett, forecast)}
    assert len(seen) == 7 * 124
    assert np.array_equal(seen[0], ett[11520 - 512 : 11520, 0])
    assert np.array_equal(seen[-1], ett[11520 + 123 * 23 - 512 : 11520 + 123 * 23, 6])
    assert figures["etth1_ot_zero_shot_mase_48"].floor_method is not None


def test_repeating_the_day_reaches_the_floor_of_ett(ett):
    """Seasonal naive as the forecast is the floor, on OT alone and on all channels, which differ."""

    def repeat_day(histories: list[np.ndarray], horizon: int) -> np.ndarray:
        days = np.stack([history[-24:][np.arange(horizon) % 24] for history in histories])
        return np.repeat(days[..., None], len(LEVELS), axis=2)

    figures = {figure.name: figure for figure in ett_figures(ett, repeat_day)}
    ot, every = figures["etth1_ot_zero_shot_mase_48"], figures["etth1_all_zero_shot_mase_48"]
    assert ot.value == ot.floor
    assert every.value == every.floor
    assert ot.value != every.value


def test_clean_signals_are_seasonal():
    """Repeating the last value is worse on every clean signal than repeating the season, told its period."""
    for figure in clean_figures(repeat_last):
        assert figure.floor is not None
        assert 0 < figure.floor < figure.value


def test_coverages_count_what_lies_between_the_levels():
    quantiles = np.tile(np.array(LEVELS), (1, 4, 1))
    figures = coverages("x", np.array([[0.01, 0.05, 0.5, 0.95]]), quantiles)
    assert [figure.name for figure in figures] == ["x_coverage_80", "x_coverage_95"]
    assert [figure.value for figure in figures] == [0.25, 0.75]
