"""The forecaster's network: scaling inside, quantiles in order, rows on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.series.quantiles import LEVELS
from training.tasks.forecast.network import HORIZON, SEGMENT, ForecastNetwork, bounds, cut, quadrature, rising, within

# Rounding of float32 sums over a few hundred terms, at outputs of about ten.
TOLERANCE = 1e-4
NO_OFFSETS = torch.zeros(len(LEVELS))


@pytest.fixture(scope="module")
def network() -> ForecastNetwork:
    torch.manual_seed(0)
    return ForecastNetwork(hidden=16, decoder=24).eval()


@pytest.fixture(scope="module")
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    walks = torch.randn(6, 150, generator=generator, dtype=torch.float64).cumsum(1)
    return walks, torch.tensor([150, 8, 17, 100, 1, 32], dtype=torch.int32)


def whole(values: torch.Tensor) -> torch.Tensor:
    return torch.full((len(values),), values.shape[1], dtype=torch.int32)


@torch.no_grad()
@pytest.mark.parametrize(
    ("factor", "offset"),
    [(3.0, 7.0), (1e-6, 0.0), (1e6, 0.0), (1.0, -100.0), (1.0, 1e8), (1.0, 1.7e9), (1.0, -1e10)],
)
def test_forecast_follows_scale_and_shift(network, histories, factor, offset):
    """a*x + b in gives a*y + b out, also where a is far from one, or b so far from zero that float32 would lose x."""
    values, lengths = histories
    plainly, elsewhere = (network(row, lengths, NO_OFFSETS) for row in (values, factor * values + offset))
    for plain, moved in zip(plainly, elsewhere, strict=True):
        torch.testing.assert_close((moved - offset) / factor, plain, rtol=TOLERANCE, atol=5 * TOLERANCE)


@torch.no_grad()
def test_forecast_of_a_row_ignores_neighbours_and_padding(network, histories):
    """Ragged rows with NaN in the padding answer as each row alone."""
    values, lengths = histories
    values = values.masked_fill(torch.arange(values.shape[1]) >= lengths[:, None], torch.nan)
    _, together = network(values, lengths, NO_OFFSETS)
    for row, length in enumerate(lengths):
        _, alone = network(values[row : row + 1, :length], lengths[row : row + 1], NO_OFFSETS)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_forecast_quantiles_never_cross(network, histories):
    _, quantiles = network(*histories, NO_OFFSETS)
    assert quantiles.shape == (6, HORIZON, 13)
    assert (quantiles.diff(dim=-1) >= 0).all()


@torch.no_grad()
def test_forecast_mean_lies_within_the_quantiles(network, histories):
    mean, quantiles = network(*histories, NO_OFFSETS)
    assert (mean >= quantiles[..., 0]).all()
    assert (mean <= quantiles[..., -1]).all()


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 5.0, -1e9, 1e-6, 1e30])
def test_forecast_of_a_constant_stays_there(network, value):
    """A history that never moved gives quantiles within a few float64 steps of its value."""
    values = torch.full((1, 40), value, dtype=torch.float64)
    _, quantiles = network(values, whole(values), NO_OFFSETS)
    torch.testing.assert_close(quantiles, torch.full_like(quantiles, value), rtol=1e-13, atol=1e-20)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 2, 8, SEGMENT, SEGMENT + 1, 600])
def test_forecast_is_finite_for_any_length(network, length):
    values = torch.randn(2, length, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    for answer in network(values, whole(values), NO_OFFSETS):
        assert torch.isfinite(answer).all()


@torch.no_grad()
def test_forecast_from_an_anchor_is_the_forecast_of_its_history(network, histories):
    """Training from inside a window sees what service would see: the anchor's history and no more."""
    values, lengths = histories[0][:1], histories[1][:1]
    anchors = torch.tensor([[2, 5]])
    scaled, level, scale, _ = network.at(values, lengths, anchors)
    for place, anchor in enumerate(anchors[0]):
        history = values[:, : 150 - (9 - int(anchor)) * SEGMENT]
        _, alone = network(history, whole(history), NO_OFFSETS)
        # The anchor's values are told from the window's last one, the history's from its own: float32 rounds otherwise.
        got = level[0, place] + (scale[0, place] * scaled[0, place]).double()
        torch.testing.assert_close(got, alone[0], rtol=TOLERANCE, atol=5 * TOLERANCE)


def test_cut_aligns_at_the_end():
    """The first segment is the partly empty one, and the last cell is the row's last value."""
    values = torch.arange(1.0, 41).repeat(2, 1)
    cells, real, steps, counted = cut(values, torch.tensor([SEGMENT + 3, 40], dtype=torch.int32))
    assert real[0, 0].sum() == 3
    assert counted[0, 0].sum() == 2
    assert cells[0, 1, -1] == SEGMENT + 3
    assert (steps[counted == 1] == 1).all()


def test_rising_orders_any_numbers():
    raw = torch.randn(100, 13, generator=torch.Generator().manual_seed(0)) * 10
    quantiles = rising(raw)
    assert (quantiles.diff(dim=-1) >= 0).all()
    assert torch.equal(quantiles[:, 6], raw[:, 6])


def test_quadrature_is_exact_for_a_symmetric_spread():
    weights = quadrature()
    assert weights.sum() == pytest.approx(1)
    assert torch.allclose(weights, weights.flip(0))


@torch.no_grad()
def test_offsets_widen_the_served_quantiles_alone(network, histories):
    """Offsets of one double each quantile's distance from the median, which stays."""
    _, plain = network(*histories, NO_OFFSETS)
    _, wider = network(*histories, torch.ones(len(LEVELS)))
    median = plain[..., 6:7]
    torch.testing.assert_close(wider - median, 2 * (plain - median), rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_counts_are_not_forecast_below_zero(network):
    """A history that comes back to its least value again and again stays above it, wherever that lies; no walk does."""
    counts = torch.poisson(torch.full((1, 200), 0.5), generator=torch.Generator().manual_seed(0)).double()
    walk = torch.randn(1, 200, generator=torch.Generator().manual_seed(0)).cumsum(1)
    for values, least in ((counts, 0.0), (3 * counts - 7, -7.0), (0.1 * counts + 1e9, 1e9)):
        _, quantiles = network(values, whole(values), NO_OFFSETS)
        assert quantiles.min() == least
    low, high = bounds(walk, whole(walk))
    assert (low, high) == (-torch.inf, torch.inf)


def test_bounds_ignore_what_stands_beyond_a_row():
    values = torch.tensor([[1.0, 0, 2, 0, 3, 0, 1, 0, 5, -9]])
    low, high = bounds(values, torch.tensor([9]))
    assert (low, high) == (0, torch.inf)
    assert within(torch.tensor([[[-1.0, 2.0]]]), low, high).tolist() == [[[0, 2]]]


def test_a_level_that_was_left_for_good_is_no_bound():
    """Steps upward leave each level once: the last one, though long, does not bound what follows."""
    values = torch.arange(5.0).repeat_interleave(20)[None]
    low, high = bounds(values, torch.tensor([100]))
    assert (low, high) == (-torch.inf, torch.inf)


def test_a_level_that_a_falling_series_comes_to_is_no_bound():
    """Whole numbers that fall slowly come to their least value again and again, but only at the end."""
    rng = np.random.default_rng(0)
    falling = np.round(60 - 0.05 * np.arange(100) + rng.normal(0, 0.5, (200, 100)))
    values = torch.from_numpy(np.concatenate([falling, 100 - falling]).astype(np.float32))
    low, high = bounds(values, whole(values))
    assert torch.isinf(low[:200]).all()
    assert torch.isinf(high[200:]).all()
