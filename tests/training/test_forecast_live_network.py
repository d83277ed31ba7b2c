"""The live forecaster's network: the scale is state, chunks equal the whole, rows stay apart."""

from __future__ import annotations

import pytest
import torch

from training.forecast_live_network import SPANS, WINDOW, LiveNetwork, running_means


@pytest.fixture(scope="module")
def network() -> LiveNetwork:
    torch.manual_seed(0)
    return LiveNetwork(hidden=12).eval()


def walk(rows: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, time, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def whole(values: torch.Tensor) -> torch.Tensor:
    return torch.full((len(values),), values.shape[1], dtype=torch.int32)


def run(network: LiveNetwork, values: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return network(values, whole(values), *(states or network.zero_states(len(values))))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 60, [7, 1, 40, 12], [59, 1], [1, 59]])
def test_live_chunks_equal_the_whole(network, sizes):
    """However a stream is cut, each observation gets the same answer and the stream the same last state."""
    values = walk(3, 60)
    quantiles, *states = run(network, values)
    carried = list(network.zero_states(3))
    for chunk, answer in zip(values.split(sizes, 1), quantiles.split(sizes, 1), strict=True):
        got, *carried = run(network, chunk, *carried)
        torch.testing.assert_close(got, answer, rtol=1e-5, atol=1e-5)
    for got, expected in zip(carried, states, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_live_row_ignores_neighbours_and_padding(network):
    """Ragged rows with NaN in the padding answer, and leave states, as each row alone."""
    values, lengths = walk(4, 50), torch.tensor([50, 1, 33, 7], dtype=torch.int32)
    values = values.masked_fill(torch.arange(50) >= lengths[:, None], torch.nan)
    quantiles, *states = network(values, lengths, *network.zero_states(4))
    for row, length in enumerate(lengths):
        alone, *left = run(network, values[row : row + 1, :length])
        torch.testing.assert_close(quantiles[row : row + 1, :length], alone, rtol=1e-5, atol=1e-5)
        for state, expected in zip(states, left, strict=True):
            kept = state[row : row + 1] if state.ndim == 2 else state[:, row : row + 1]
            torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e9])
def test_live_follows_the_scale(network, factor):
    values = walk(2, 80)
    plain, moved = run(network, values)[0], run(network, factor * values)[0]
    torch.testing.assert_close(moved / factor, plain, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_live_follows_a_shift_from_the_second_observation(network):
    values = walk(2, 80)
    plain, moved = run(network, values)[0], run(network, values + 50)[0]
    torch.testing.assert_close(moved[:, 1:] - 50, plain[:, 1:], rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 1e-6, -3.0, 1e9])
def test_live_constant_stream_stays_finite_and_narrows(network, value):
    """A stream that never moves opens wide and ends within float32 steps of its value."""
    quantiles = run(network, torch.full((1, 40), value))[0][0]
    assert torch.isfinite(quantiles).all()
    width = quantiles[:, -1] - quantiles[:, 0]
    assert width[0] > 0
    assert width[-1] <= 1e-4 * width[0]


@torch.no_grad()
def test_live_quantiles_never_cross(network):
    assert (run(network, walk(3, 100))[0].diff(dim=-1) >= 0).all()


@torch.no_grad()
def test_live_stays_finite_over_a_long_stream_with_jumps(network):
    values = walk(1, 5000)
    values[:, 2000:] += 1e6
    values[:, 3000:4500] = 0
    assert torch.isfinite(run(network, values)[0]).all()


def test_live_states_hold_one_batch_axis(network):
    assert [tuple(state.shape) for state in network.zero_states(5)] == [
        (5, WINDOW),
        (5, 1),
        (1, 5, 4),
        *[(1, 5, 12)] * 4,
    ]


@torch.no_grad()
def test_running_means_are_exponential_moving_averages():
    """The fixed recurrence equals the textbook one, is not trained, and forgets at its span."""
    size = walk(1, 300).abs()
    got, _ = running_means()(torch.stack([size, size, torch.ones(1, 300), torch.ones(1, 300)], 2), whole(size), None)
    for unit, span in enumerate(SPANS):
        mean = 0.0
        for step in range(300):
            mean += (float(size[0, step]) - mean) / span
        assert float(got[0, -1, unit]) == pytest.approx(mean, rel=1e-4)
    assert not any(weight.requires_grad for weight in running_means().parameters())
