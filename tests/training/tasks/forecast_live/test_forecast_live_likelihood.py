"""What makes an observation likely to be marked: errors that are large for the stream, values beyond its range."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.tasks.forecast_live.likelihood import BEYOND, REMEMBERED, SHORT, SILENCE, WIDENING, YOUNG, likelihood

WORTH = 0.45  # what is worth a report


def noise(rows: int, time: int, seed: int = 0) -> Tensor:
    """Values within -1 and 1. Shapes: returns [rows, time]."""
    return torch.rand(rows, time, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def run(values: Tensor, errors: Tensor | None = None) -> Tensor:
    """Score new sessions; without errors, each value is its own. Shapes: as `likelihood`."""
    number = torch.arange(1, values.shape[1] + 1).expand(values.shape)
    lengths = torch.full((len(values),), values.shape[1])
    state = torch.zeros(len(values), REMEMBERED, dtype=torch.float64)
    return likelihood(values, values.abs() if errors is None else errors, number, lengths, state)[0]


def test_ordinary_noise_is_hardly_ever_worth_a_report():
    assert (run(noise(20, 2000)) > WORTH).double().mean() < 1e-3


def test_a_young_session_reports_nothing():
    values = noise(1, YOUNG + 1)
    values[:, 50:] *= 100
    assert (run(values)[:, :YOUNG] == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("widths", "worth"), [(0.5 * BEYOND, False), (1.1 * BEYOND, True), (100, True)])
def test_a_value_is_worth_a_report_from_a_share_of_the_range_on(sign, widths, worth):
    """Whatever its error: here all are small."""
    values = noise(1, 500)
    low, high = values[:, :400].aminmax()
    values[0, 400] = sign * widths * (high - low) + (high if sign > 0 else low)
    score = run(values, torch.full((1, 500), 0.02))[0]
    assert (score[400] > WORTH) == worth
    assert (score[:400] < WORTH).all()


def test_errors_that_stay_large_are_worth_a_report_and_one_is_not():
    """Within the values' range, and within twice the observations that the short mean remembers."""
    values, errors = noise(2, 600), noise(2, 600, seed=1).abs()
    errors[0, 500] = 1.5
    errors[1, 500:] *= 4
    score = run(values, errors)
    assert (score[0] < WORTH).all()
    assert (score[1, :500] < WORTH).all()
    assert score[1, 500 : 500 + 2 * SHORT].max() > WORTH


def test_what_was_reported_is_not_reported_again_at_once():
    """Values as far beyond the range are silent for a while; one further out is not."""
    values = noise(1, 600)
    values[0, [400, 410, 420]] = torch.tensor([1.3, 1.6, 40.0], dtype=torch.float64)
    score = run(values, torch.full((1, 600), 0.02))[0]
    assert (score[[400, 420]] > WORTH).all()
    assert (score[401:420] < 0.1).all()


def test_silence_ends():
    values, errors = noise(1, 1200), torch.full((1, 1200), 0.02)
    later = 400 + SILENCE + 2
    values[0, [400, later]] = torch.tensor([2.0, 4.0], dtype=torch.float64)
    score = run(values, errors)[0]
    assert (score[[400, later]] > WORTH).all()


@pytest.mark.parametrize("glitch", [-9999.0, 1e12, 1.7e308])
def test_a_glitch_of_any_size_widens_the_range_by_a_bounded_share(glitch):
    values = noise(1, 800)
    values[0, 300] = glitch
    values[0, 500] = 1 + 2 * (2 * WIDENING)
    assert run(values, torch.full((1, 800), 0.02))[0, 500] > WORTH


def test_a_level_that_stays_is_believed():
    """A hundred ranges away at first it stands out; in the end it is the stream's own."""
    values = noise(1, 3000)
    values[:, 400:] += 200
    score = run(values, torch.full((1, 3000), 0.02))[0]
    assert score[400] > WORTH
    assert (score[1000:] < WORTH).all()


@pytest.mark.parametrize("factor", [1e-9, 1e12])
@pytest.mark.parametrize("level", [0.0, 1e3])
def test_units_and_level_do_not_matter(factor, level):
    values = noise(3, 600)
    values[:, 400:404] *= 3
    errors = values.abs()
    torch.testing.assert_close(run(factor * (values + level), factor * errors), run(values, errors), rtol=0, atol=1e-6)


def test_rows_without_observations_keep_their_state():
    """And what stands in their padding, NaN too, changes nothing."""
    values, state = noise(2, 5), torch.arange(2.0 * REMEMBERED, dtype=torch.float64).reshape(2, REMEMBERED)
    values[1] = torch.nan
    number = torch.arange(200, 205).expand(2, 5)
    _, left = likelihood(values, values.abs(), number, torch.tensor([5, 0]), state)
    assert (left[1] == state[1]).all()
    assert torch.isfinite(left[0]).all()
