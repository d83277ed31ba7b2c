"""Series, splits and windows: what the forecasters are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.series.data import ETT_TEST, ETT_TRAIN, ETT_VALIDATION, Mixture, coarser, pad, read_ett, read_weekly
from training.series.synthetic import COMPONENTS, synthesize_series


def test_synthetic_series_repeat_by_seed():
    """The same seed gives the same series, another seed others."""
    first, again, other = (synthesize_series(seed, 20, 100) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any(axis=1).all()


def test_synthetic_series_are_finite_and_vary():
    series = synthesize_series(0, 500, 200)
    assert np.isfinite(series).all()
    assert (series.std(axis=1) > 0).mean() > 0.99


@pytest.mark.parametrize("component", [component for component, _ in COMPONENTS])
def test_synthetic_component_takes_no_rows(component):
    """A component that no series of a small draw uses is drawn zero times."""
    assert component(np.random.default_rng(0), 0, 50).shape == (0, 50)


def test_ett_parts_follow_each_other():
    """Training ends where validation starts, which ends where the test part starts: 8640, 2880 and 2880 rows."""
    assert (ETT_TRAIN.start, ETT_TRAIN.stop) == (0, 8640)
    assert (ETT_VALIDATION.start, ETT_VALIDATION.stop) == (8640, 11520)
    assert (ETT_TEST.start, ETT_TEST.stop) == (11520, 14400)


def test_mixture_never_draws_beyond_the_training_part():
    """With the later rows of ETTh1 made NaN, thousands of windows hold none."""
    ett = np.full((17420, 7), np.nan)
    ett[ETT_TRAIN] = np.arange(8640)[:, None]
    values, lengths = Mixture.of([np.arange(100.0)], ett, weekly_share=0.1, ett_share=0.9).draw(0, 2000, 560)
    assert torch.isfinite(values).all()
    assert values.max() <= 8639
    assert lengths.max() == 560


def test_mixture_zeroes_what_is_beyond_the_length():
    weekly = [np.full(length, 7.0) for length in (80, 300, 900)]
    values, lengths = Mixture.of(weekly, np.ones((17420, 7)), weekly_share=1, ett_share=0).draw(3, 200, 400)
    beyond = torch.arange(400) >= lengths[:, None]
    assert (values[beyond] == 0).all()
    assert (values[~beyond] == 7).all()
    assert lengths.min() >= 32


def test_mixture_repeats_by_seed():
    mixture = Mixture.of([np.arange(100.0)], np.ones((17420, 7)), weekly_share=0.3, ett_share=0.3)
    for first, again in zip(mixture.draw(5, 50, 200), mixture.draw(5, 50, 200), strict=True):
        assert torch.equal(first, again)


def test_coarser_averages_and_drops_the_rest():
    np.testing.assert_allclose(coarser(np.array([1.0, 3, 5, 7, 100]), 2), [2, 6])


def test_pad_keeps_every_row():
    values, lengths = pad([np.array([1.0, 2]), np.array([3.0])])
    assert values.tolist() == [[1, 2], [3, 0]]
    assert lengths.tolist() == [2, 1]


def test_read_weekly_skips_names_and_empty_cells(tmp_path: Path):
    file = tmp_path / "weekly.csv"
    file.write_text('"V1","V2","V3"\n"W1","1.5","2"\n"W2","3",\n')
    assert [series.tolist() for series in read_weekly(file)] == [[1.5, 2.0], [3.0]]


def test_read_ett_leaves_the_date_out(tmp_path: Path):
    file = tmp_path / "ett.csv"
    file.write_text("date,a,b,c,d,e,f,g\n2016-07-01 00:00:00,1,2,3,4,5,6,7\n2016-07-01 01:00:00,2,3,4,5,6,7,8\n")
    assert read_ett(file).tolist() == [[1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7, 8]]
