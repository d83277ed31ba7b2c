"""The live forecaster's network: the scale is state, chunks equal the whole, rows stay apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.series.quantiles import LEVELS
from training.tasks.forecast_live.likelihood import REMEMBERED
from training.tasks.forecast_live.network import (
    ANOMALY_CAP,
    MAX_MEANS,
    SPANS,
    WINDOW,
    LiveNetwork,
    RunningMeans,
    look_back,
)


@pytest.fixture(scope="module")
def network() -> LiveNetwork:
    torch.manual_seed(0)
    return LiveNetwork(hidden=12).eval()


def walk(rows: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, time, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(1)


def whole(values: torch.Tensor) -> torch.Tensor:
    return torch.full((len(values),), values.shape[1], dtype=torch.int32)


def split(answer: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """Return quantiles, anomaly, likelihood, and the states as one list."""
    quantiles, anomaly, likelihood, *states = answer
    return quantiles, anomaly, likelihood, states


def forget_expected(states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Leave out what only judging needs."""
    window, count, _expected, _remembered, *recurrent = states
    return window, count, *recurrent


NO_OFFSETS = torch.zeros(len(LEVELS))


def run(network: LiveNetwork, values: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return network(values, whole(values), NO_OFFSETS, *(states or network.zero_states(len(values))))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 60, [7, 1, 40, 12], [59, 1], [1, 59]])
def test_live_chunks_equal_the_whole(network, sizes):
    """However a stream is cut, each observation gets the same answer and the stream the same last state."""
    values = walk(3, 60)
    *made, states = split(run(network, values))
    carried = list(network.zero_states(3))
    for chunk, *answers in zip(*(whole.split(sizes, 1) for whole in (values, *made)), strict=True):
        *got, carried = split(run(network, chunk, *carried))
        for one, answer in zip(got, answers, strict=True):
            torch.testing.assert_close(one, answer, rtol=1e-5, atol=1e-5)
    for got, expected in zip(carried, states, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_live_row_ignores_neighbours_and_padding(network):
    """Ragged rows with NaN in the padding answer, and leave states, as each row alone."""
    values, lengths = walk(4, 50), torch.tensor([50, 1, 33, 7], dtype=torch.int32)
    values = values.masked_fill(torch.arange(50) >= lengths[:, None], torch.nan)
    *made, states = split(network(values, lengths, NO_OFFSETS, *network.zero_states(4)))
    for row, length in enumerate(lengths):
        *alone, left = split(run(network, values[row : row + 1, :length]))
        for whole, own in zip(made, alone, strict=True):
            torch.testing.assert_close(whole[row : row + 1, :length], own, rtol=1e-5, atol=1e-5)
        for state, expected in zip(states, left, strict=True):
            kept = state[row : row + 1] if state.ndim == 2 else state[:, row : row + 1]
            torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e9])
def test_live_follows_the_scale(network, factor):
    values = walk(2, 300)
    (plain, *scores, _), (moved, *same, _) = map(split, (run(network, values), run(network, factor * values)))
    torch.testing.assert_close(moved / factor, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("level", [50.0, 1e8, 1.7e9, -1e10])
def test_live_follows_a_shift_from_the_second_observation(network, level):
    """Also to where float32 would lose the values."""
    values = walk(2, 300)
    (plain, *scores, _), (moved, *same, _) = map(split, (run(network, values), run(network, values + level)))
    torch.testing.assert_close(moved[:, 1:] - level, plain[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same, scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 1e-6, -3.0, 1e9])
def test_live_constant_stream_stays_finite_and_narrows(network, value):
    """A stream that never moves opens wide and ends within float64 steps of its value."""
    (quantiles,), (anomaly,), (likelihood,), *_ = run(network, torch.full((1, 40), value, dtype=torch.float64))
    assert torch.isfinite(quantiles).all()
    assert torch.isfinite(anomaly).all()
    assert (likelihood == 0).all()
    width = quantiles[:, -1] - quantiles[:, 0]
    assert width[0] > 0
    assert width[-1] <= 1e-12 * width[0]


@torch.no_grad()
def test_live_quantiles_never_cross(network):
    assert (run(network, walk(3, 100))[0].diff(dim=-1) >= 0).all()


@torch.no_grad()
def test_live_stays_finite_over_a_long_stream_with_jumps(network):
    values = walk(1, 5000)
    values[:, 2000:] += 1e6
    values[:, 3000:4500] = 0
    values[:, 4600:4602] = torch.tensor([1.7e308, -1.7e308], dtype=torch.float64)
    quantiles, anomaly, likelihood, _ = split(run(network, values))
    assert torch.isfinite(quantiles).all()
    assert ((likelihood >= 0) & (likelihood < 1)).all()
    assert likelihood[0, 2000] > 0.45
    assert anomaly[0, 2000] == anomaly[0, 4500] == ANOMALY_CAP


def test_live_states_hold_one_batch_axis(network):
    assert [tuple(state.shape) for state in network.zero_states(5)] == [
        (5, WINDOW),
        (5, 1),
        (5, 3),
        (5, REMEMBERED),
        (1, 5, 3),
        (1, 5, 4),
        *[(1, 5, 12)] * 4,
    ]


@torch.no_grad()
@pytest.mark.parametrize("glitch", [0.0, 1e4, 1e12])
def test_running_means_are_exponential_moving_averages_of_bounded_steps(glitch):
    """The fixed recurrence equals the textbook one on steps cut at what one may count for, and is not trained."""
    running = RunningMeans()
    size, usual = walk(1, 300).abs().float(), torch.full((1, 300), 0.5)
    size[0, 200] += glitch
    states = *running.limits.zero_states(1), *running.means.zero_states(1)
    got, _ = running(size, usual, torch.ones(1, 300), whole(size), *states)
    means = dict.fromkeys(SPANS, 0.0)
    for step in size[0].tolist():
        counted = min(step, MAX_MEANS * means[SPANS[-1]] + 0.5)
        means = {span: mean + (counted - mean) / span for span, mean in means.items()}
    for unit, (span, mean) in enumerate(means.items()):
        assert float(got[0, -1, unit]) == pytest.approx(mean / (1 - (1 - 1 / span) ** 300), rel=1e-5)
    assert not any(weight.requires_grad for weight in running.parameters())


def scales(network: LiveNetwork, values: torch.Tensor) -> torch.Tensor:
    """Return the running scale after each observation, as the width of what an untrained head predicts tells it."""
    with torch.no_grad():
        network.head.weight.zero_()
        quantiles = run(network, values)[0]
    return quantiles[..., -1] - quantiles[..., 0]


@pytest.mark.parametrize("at", [0, 1, 2, 3, 7, 40, 200])
@pytest.mark.parametrize("glitch", [-9999.0, 1e6, 1e30, -1.7e308])
def test_one_glitch_of_any_size_hardly_moves_the_scale(at, glitch):
    """Wherever in the session it stands, the scale is soon what it would be without it, up to a bounded factor."""
    network = LiveNetwork(hidden=4).eval()
    values = walk(4, 260)
    spoilt = values.clone()
    spoilt[:, at] = glitch
    factor = scales(network, spoilt)[:, at + 5 :] / scales(network, values)[:, at + 5 :]
    assert factor.max() < 2
    assert factor.min() > 0.4


def test_steps_that_stay_large_are_believed():
    """A stream that moves a million times more from some observation on has its new scale within a window."""
    network = LiveNetwork(hidden=4).eval()
    values = walk(4, 400)
    moved = torch.cat([values[:, :200], values[:, 199:200] + 1e6 * (values[:, 200:] - values[:, 199:200])], 1)
    factor = scales(network, moved)[:, 200 + WINDOW] / scales(network, values)[:, 200 + WINDOW]
    assert (factor > 1e6 / SPANS[-1]).all()


def test_a_usual_step_is_a_lower_quartile_of_those_that_moved():
    values = torch.tensor([[5.0, 5, 5, 1, 1, 9, 9, 10, 1010]], dtype=torch.float64)
    earlier = torch.stack([torch.cat([values.new_zeros(1, lag), values[:, :-lag]], 1) for lag in range(1, 9)], 2)
    seen = torch.arange(9)[None, :, None] >= torch.arange(1, 9)
    steps, usual = look_back(values, earlier, seen)
    assert usual.tolist() == [[0, 0, 0, 4, 4, 4, 4, 1, 1]]
    assert steps[0, -1].tolist() == [1000, 1001, 1001, 1009, 1009, 1005, 1005, 1005]


@torch.no_grad()
@pytest.mark.parametrize("widen", [0.0, 0.7])
def test_live_anomaly_is_one_at_the_bound_of_what_was_predicted(network, widen):
    """An observation at the 97.5 % or 2.5 % quantile that the step before answered scores 1, at the median 0."""
    offsets = torch.full((len(LEVELS),), widen)
    values = walk(3, 50)
    quantiles, _, _, *states = network(values, whole(values), offsets, *network.zero_states(3))
    last = quantiles[:, -1]
    for level, score in ((0.975, 1.0), (0.025, 1.0), (0.5, 0.0)):
        following = last[:, [LEVELS.index(level)]]
        _, anomaly, *_ = network(following, whole(following), offsets, *states)
        torch.testing.assert_close(anomaly, torch.full((3, 1), score), rtol=0, atol=1e-4)


@torch.no_grad()
def test_live_anomaly_of_the_first_two_observations_is_zero(network):
    """Nothing, or no more than one value's size, was known when they were predicted."""
    _, anomaly, *_ = run(network, 100 * walk(8, 3))
    assert (anomaly[:, :2] == 0).all()
    assert (anomaly[:, 2] > 0).all()


@torch.no_grad()
def test_live_offsets_widen_around_the_median(network):
    values = walk(2, 30)
    plain = run(network, values)[0]
    wide, *_ = network(values, whole(values), torch.full((len(LEVELS),), 0.5), *network.zero_states(2))
    median = plain[..., [LEVELS.index(0.5)]]
    torch.testing.assert_close(wide - median, 1.5 * (plain - median), rtol=1e-4, atol=1e-5)


def test_live_training_may_run_in_bfloat16(network):
    """The running scale is kept in float32: its means move by less than a bfloat16 step."""
    values = walk(2, 400)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network.predict(values, whole(values), *forget_expected(network.zero_states(2)))[2]
    fine = network.predict(values, whole(values), *forget_expected(network.zero_states(2)))[2]
    for got, expected in zip(coarse[2:4], fine[2:4], strict=True):
        torch.testing.assert_close(got, expected)
