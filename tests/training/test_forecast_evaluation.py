"""The forecasters' figures, with forecasts made by hand, and the calls that ask a service for them."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from training.forecast_evaluation import (
    LIVE_WARM_UP,
    SERIES_PER_CALL,
    STEPS_PER_CALL,
    ask_forecast,
    ask_stream,
    ett_figures,
    live_figures,
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

    def stream(values: np.ndarray) -> np.ndarray:
        channel = len(asked)
        asked.append(values)
        return values[:, None] + constant_spread(ett[11519:14400, channel])

    best, fitted_before, covered = live_figures(ett, stream)
    assert best.value == best.floor
    assert fitted_before.value <= fitted_before.floor
    assert covered.value == pytest.approx(0.9, abs=0.01)
    assert np.array_equal(asked[0], ett[11520 - LIVE_WARM_UP : 14399, 0])


def test_ask_forecast_keeps_the_order_over_calls():
    """More series than one call takes come back in order, the levels on the last axis."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        results = [
            {"quantiles": {f"{level:g}": [level + series["values"][-1]] * body["horizon"] for level in LEVELS}}
            for series in body["series"]
        ]
        return httpx.Response(200, json={"results": results})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service") as client:
        count = SERIES_PER_CALL + 5
        got = ask_forecast(client)([np.array([0.0, row]) for row in range(count)], 4)
    np.testing.assert_allclose(got, np.arange(count)[:, None, None] + np.broadcast_to(LEVELS, (count, 4, 13)))


def test_ask_stream_carries_the_token():
    """Every call but the first brings the state that the one before it returned."""
    states: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        (item,) = json.loads(request.content)["items"]
        states.append(item.get("state"))
        outputs = {"quantiles": [[value] * len(LEVELS) for value in item["values"]]}
        return httpx.Response(200, json={"results": [{"outputs": outputs, "state": f"token{len(states)}"}]})

    values = np.arange(2.0 * STEPS_PER_CALL + 1)
    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service") as client:
        got = ask_stream(client)(values)
    assert states == [None, "token1", "token2"]
    np.testing.assert_array_equal(got[:, 0], values)
