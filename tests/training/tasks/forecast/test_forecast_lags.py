"""What lags foresee, against sums written out; experts, against signals whose continuation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.tasks.forecast.experts import COPIES, Experts
from training.tasks.forecast.lags import LAGS, RECENT, Comparison, compare, latest, periods

SEGMENT, HORIZON = 16, 48


def look(series: np.ndarray, first: int = 0, anchor: int | None = None) -> Comparison:
    """Compare one series at one anchor, the last by default."""
    count = len(series) // SEGMENT
    anchors = torch.tensor([[count - 1 if anchor is None else anchor]])
    values = torch.from_numpy(series).float()[None]
    return compare(values, torch.tensor([first]), anchors, torch.tensor([count]), SEGMENT, HORIZON)


@pytest.mark.parametrize(("first", "anchor"), [(0, None), (5, None), (5, 3)])
def test_comparison_is_that_of_plain_sums(first: int, anchor: int | None) -> None:
    """Drift, regression and errors of a lag are the mean, the least squares and the variances of its pairs."""
    walk = np.random.default_rng(0).normal(size=96).cumsum()
    found = look(walk, first, anchor)
    end = 96 if anchor is None else (anchor + 1) * SEGMENT
    for lag in (1, 7, 30):
        place = lag - 1
        later, earlier = walk[first + lag : end], walk[first : end - lag]
        change = later - earlier
        slope = max(np.polyfit(earlier, later, 1)[0], 0)  # none is followed downward
        assert found.pairs[0, 0, place] == len(later)
        assert found.drift[0, 0, place] == pytest.approx(change.mean(), abs=1e-5)
        assert found.drift_error[0, 0, place] == pytest.approx(change.var(), rel=1e-4)
        recent = change[-RECENT * SEGMENT :]
        assert found.recent_error[0, 0, place] == pytest.approx(recent.var(), rel=1e-4)
        # The ridge keeps slopes from being read out of nothing, and moves them by hundredths.
        assert found.slope[0, 0, place] == pytest.approx(slope, abs=0.02)
        assert found.slope_error[0, 0, place] == pytest.approx(np.var(later - slope * earlier), rel=0.01)


def test_comparison_ignores_what_follows_the_anchor() -> None:
    walk = np.random.default_rng(1).normal(size=96).cumsum()
    other = np.concatenate([walk[:64], np.random.default_rng(2).normal(size=32).cumsum()])
    for one, two in zip(vars(look(walk, anchor=3)).values(), vars(look(other, anchor=3)).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_steep_line_leaves_no_error() -> None:
    """Every lag foresees a line exactly, however far it climbs: no rounding is left of its squares."""
    found = look(10.0 * np.arange(512))
    usable = found.pairs[0, 0] > 1
    assert found.drift_error[0, 0][usable].max() < 1e-6
    torch.testing.assert_close(found.drift[0, 0][usable], 10.0 * torch.tensor(LAGS)[usable])


def test_periods_lead_to_the_same_phase() -> None:
    """Twelve steps and lag 5: back one lag for five steps, two for five more, then three."""
    back, place = periods(12)
    assert back[4].tolist() == [1] * 5 + [2] * 5 + [3] * 2
    assert (place[4] - max(LAGS)).tolist() == [-5, -4, -3, -2, -1] * 2 + [-5, -4]


def test_latest_repeats_the_first_place_before_it() -> None:
    row = torch.arange(32.0)[None]
    assert latest(row, torch.tensor([[0]]), 18, SEGMENT)[0, 0].tolist() == [0.0, 0, *range(16)]


def paths_of(series: np.ndarray, lag: int) -> Tensor:
    """Every expert's path where each head looks at one lag alone. Shapes: returns [48, experts]."""
    experts = Experts(4, SEGMENT, HORIZON)
    only = torch.zeros(1, 1, 6, len(LAGS))
    only[..., lag - 1] = 1
    experts._weigh = lambda found, errors, read: only  # type: ignore[method-assign]
    count = len(series) // SEGMENT
    values = torch.from_numpy(series).float()[None]
    paths, _, _ = experts(
        values,
        torch.tensor([0]),
        torch.tensor([count]),
        torch.tensor([[count - 1]]),
        torch.ones(1, 1),
        torch.zeros(1, 1, 4),
    )
    return paths[0, 0]


def test_experts_continue_a_season_on_a_line_exactly() -> None:
    """With drift a copy goes on as the season and its trend do; the last value stays; a plain copy lacks the trend."""
    time = np.arange(96 + HORIZON)
    signal = np.sin(2 * np.pi * time / 12) + 0.05 * time
    paths = paths_of(signal[:96], lag=12)
    due = torch.from_numpy(signal[96:] - signal[95]).float()
    torch.testing.assert_close(paths[:, 1 + COPIES], due, rtol=1e-4, atol=1e-4)
    assert (paths[:, 0] == 0).all()
    assert (paths[:, 1] - due).abs().max() > 0.5


def test_experts_continue_growth_by_regression() -> None:
    """A season that grows with its level is a straight line of itself one season ago."""
    time = np.arange(96 + HORIZON)
    signal = 20 * np.exp(0.01 * time) * (1 + 0.3 * np.sin(2 * np.pi * time / 12))
    paths = paths_of(signal[:96], lag=12)
    due = torch.from_numpy(signal[96:] - signal[95]).float()
    torch.testing.assert_close(paths[:, -1], due, rtol=5e-3, atol=0.1)


@torch.no_grad()
def test_heads_prefer_lags_that_foresaw_the_history() -> None:
    """Before any training the error decides: nearly all weight is on multiples of the season."""
    torch.manual_seed(0)
    experts = Experts(4, SEGMENT, HORIZON)
    time = np.arange(256 + HORIZON)
    signal = np.sin(2 * np.pi * time / 20) * 5
    values = torch.from_numpy(signal[:256]).float()[None]
    paths, spread, _ = experts(
        values, torch.tensor([0]), torch.tensor([16]), torch.tensor([[15]]), torch.ones(1, 1), torch.zeros(1, 1, 4)
    )
    due = torch.from_numpy(signal[256:] - signal[255]).float()
    assert (paths[0, 0, :, 1] - due).abs().max() < 0.05
    assert spread < 0.01


@torch.no_grad()
def test_experts_stay_finite_where_only_long_lags_foresee() -> None:
    """A season beyond the lags that regressions are continued for leaves these with weights all the same."""
    experts = Experts(4, SEGMENT, HORIZON)
    values = torch.from_numpy(np.tile(np.random.default_rng(0).normal(size=100), 3)[:288] * 1e3).float()[None]
    answers = experts(
        values, torch.tensor([0]), torch.tensor([18]), torch.tensor([[17]]), torch.ones(1, 1), torch.zeros(1, 1, 4)
    )
    for answer in answers:
        assert torch.isfinite(answer).all()


def test_errors_after_a_rest_are_no_rounding() -> None:
    """Where a history came to rest, one float32 step more or less in its size hardly changes what lags were off."""
    rng = np.random.default_rng(0)
    for place in range(1, 15):
        series = np.zeros(32, np.float32)
        series[place:] += np.float32(rng.normal())
        series[2 * place :] += np.float32(16 * rng.normal())
        one, two = look(series), look(series * np.float32(1 + 2**-21))
        for name in ("drift_error", "recent_error", "slope_error"):
            logs = (torch.log(getattr(found, name) + 1e-6) for found in (one, two))
            torch.testing.assert_close(*logs, rtol=0, atol=0.02)
