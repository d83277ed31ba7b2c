"""The measures that forecasters are judged by, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training.series.metrics import constant_spread, coverage, mase, pinball, smape, spread_loss
from training.series.quantiles import LEVELS


def test_mase_by_hand():
    """Steps 2, 1, 3 make a scale of 2; errors 1 and 3 make a mean of 2."""
    assert mase([np.array([1.0, 3, 2, 5])], np.array([[6.0, 9]]), np.array([[5.0, 6]])) == pytest.approx([1.0])


def test_mase_scales_by_the_season():
    """A history that grows by one a season of two has an in-sample error of one."""
    history = np.repeat(np.arange(5.0), 2)
    assert mase([history], np.array([[7.0]]), np.array([[4.0]]), season=2) == pytest.approx([3])


def test_measures_keep_the_order_of_the_series():
    """Twelve series, so that 10 would stand before 2 if they were sorted as words: each has its own error."""
    errors = np.arange(12.0)
    actual = np.zeros((12, 2))
    histories = [np.arange(5.0)] * 12
    assert mase(histories, actual, actual + errors[:, None]) == pytest.approx(errors)
    assert pinball(actual, np.zeros((12, 2, len(LEVELS))) + errors[:, None, None]) == pytest.approx(errors / 2)


def test_mase_refuses_a_constant_history():
    with pytest.raises(ValueError, match="constant"):
        mase([np.arange(5.0), np.ones(5)], np.ones((2, 2)), np.ones((2, 2)))


def test_smape_by_hand():
    """|1-3| / (1+3) = 1/2 and 0: half of 200 times one half."""
    assert smape(np.array([[1.0, 2]]), np.array([[3.0, 2]])) == pytest.approx([50.0])


def test_smape_of_a_zero_that_was_foreseen_is_zero():
    assert smape(np.array([[0.0, 1.0]]), np.array([[0.0, 3.0]])) == pytest.approx([50.0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_a_number_is_refused(wrong: float):
    """A frame's mean would leave it out, and the figure would be that of the rest."""
    forecast = np.array([[1.0, wrong]])
    with pytest.raises(ValueError, match="forecast must be finite"):
        smape(np.ones((1, 2)), forecast)
    with pytest.raises(ValueError, match="forecast must be finite"):
        mase([np.arange(5.0)], np.ones((1, 2)), forecast)


def test_pinball_weighs_over_and_under_by_level():
    """For a value one above all quantiles the loss of each level is the level: the mean of them is one half."""
    quantiles = np.zeros((1, 1, len(LEVELS)))
    assert pinball(np.array([[1.0]]), quantiles) == pytest.approx([0.5])
    assert pinball(np.array([[-1.0]]), quantiles) == pytest.approx([0.5])


def test_coverage_counts_what_is_between():
    quantiles = np.tile(np.array(LEVELS), (1, 4, 1))
    assert coverage(np.array([[0.0, 0.5, 0.9, 0.99]]), quantiles, 0.05, 0.95) == pytest.approx(0.5)


def test_constant_spread_is_the_best_one():
    """No shift of a fitted offset lowers the loss on the series it was fitted on."""
    series = np.cumsum(np.random.default_rng(0).exponential(size=501))
    offsets = constant_spread(series)
    best = spread_loss(series, offsets)
    for shift in (-0.2, -0.05, 0.05, 0.2):
        assert spread_loss(series, offsets + shift) > best
