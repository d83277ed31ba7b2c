"""The forecasters' losses, anchors and chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.forecast_data import Mixture
from training.forecast_live_network import LiveNetwork
from training.forecast_metrics import pinball
from training.forecast_network import HORIZON, MAX_HISTORY, SEGMENT
from training.forecast_training import (
    CHUNK,
    LIVE_WIDTH,
    ROWS,
    STATE_LIMIT,
    Chunks,
    LiveModule,
    draw_anchors,
    future_loss,
    futures,
    held_out_futures,
    next_loss,
    overflow,
    pinball_loss,
    step_units,
)


@pytest.fixture
def mixture() -> Mixture:
    rng = np.random.default_rng(0)
    weekly = [rng.normal(size=length).cumsum() for length in (80, 700)]
    return Mixture.of(weekly, rng.normal(size=(17420, 7)), weekly_share=0.4, ett_share=0.2)


def test_windows_of_an_epoch_repeat_by_seed(mixture):
    """What an epoch draws depends on seed and epoch alone, so that a resumed run goes on where it stopped."""
    held_out = Chunks(torch.zeros(1, 2), torch.tensor([2]))

    def live(seed: int) -> LiveModule:
        return LiveModule(LiveNetwork(), mixture, held_out, seed, windows=4, learning_rate=1e-3)

    first, again, other = (live(seed).draw(100)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_held_out_futures_keep_the_end_of_a_long_history():
    history, future = np.arange(600.0), np.array([600.0, 601])
    values, lengths, after, known = held_out_futures([(history, future), (history[:20], future)]).tensors
    assert values[0, 0] == 600 - MAX_HISTORY
    assert lengths.tolist() == [MAX_HISTORY, 20]
    assert known.sum(1).tolist() == [2, 2]
    assert after[:, :2].tolist() == [[600, 601]] * 2


def test_pinball_loss_is_the_measure():
    generator = np.random.default_rng(0)
    actual, quantiles = generator.normal(size=(5, 3)), np.sort(generator.normal(size=(5, 3, 13)))
    got = pinball_loss(torch.from_numpy(actual), torch.from_numpy(quantiles))
    np.testing.assert_allclose(got.numpy(), pinball(actual, quantiles), rtol=1e-6)


def test_futures_follow_their_anchor():
    """On a ramp the future of an anchor begins one above its last value; beyond the row nothing is known."""
    length = 5 * SEGMENT + 3
    values, lengths = torch.arange(1.0, length + 8)[None], torch.tensor([length], dtype=torch.int32)
    future, known = futures(values, lengths, torch.tensor([[2, 4, 5]]))
    assert future[0, 0, 0] == 2 * SEGMENT + 3 + 1
    assert (known[0, 0] == 1).all() == (3 * SEGMENT >= HORIZON)
    assert known[0, 1].sum() == SEGMENT
    assert known[0, 2].sum() == 0


def test_futures_need_a_history():
    """After three values nothing is asked of the forecast."""
    _, known = futures(torch.zeros(1, 60), torch.tensor([SEGMENT + 3]), torch.tensor([[0]]))
    assert known.sum() == 0


def test_anchors_leave_a_future():
    lengths = torch.tensor([560, 32, 5], dtype=torch.int32)
    anchors = torch.cat([draw_anchors(lengths) for _ in range(50)], 1)
    assert anchors[0].max() == 560 // SEGMENT - 2
    assert anchors[1:].max() == 0


def test_future_loss_ignores_what_is_unknown():
    quantiles, level, scale = torch.zeros(1, 1, HORIZON, 13), torch.zeros(1, 1), torch.ones(1, 1)
    known = torch.zeros(1, 1, HORIZON)
    known[..., 0] = 1
    future = torch.full((1, 1, HORIZON), 1e6)
    future[..., 0] = 0
    assert future_loss(future, known, quantiles, level, scale) == 0


def test_chunks_go_through_each_window_once():
    values = torch.arange(2.0 * LIVE_WIDTH).view(2, -1)
    chunks = list(Chunks(values, torch.tensor([LIVE_WIDTH, 100], dtype=torch.int32)))
    assert len(chunks) == LIVE_WIDTH // CHUNK
    assert [bool(first) for *_, first in chunks] == [True] + [False] * (len(chunks) - 1)
    assert torch.equal(torch.cat([now for now, *_ in chunks], 1), values)
    assert torch.equal(torch.cat([after for _, after, *_ in chunks], 1), values[:, 1:])
    assert torch.cat([real for _, _, real, *_ in chunks], 1).sum(1).tolist() == [LIVE_WIDTH - 1, 99]


def test_chunks_group_rows():
    chunks = Chunks(torch.zeros(ROWS + 1, CHUNK), torch.full((ROWS + 1,), CHUNK, dtype=torch.int32))
    assert [len(now) for now, *_ in chunks] == [ROWS, 1]


def test_step_units_are_mean_steps():
    values = torch.tensor([[1.0, 3, 0, 9], [5, 5, 5, 5]])
    assert step_units(values, torch.tensor([3, 4])).tolist() == [2.5, 1.0]


def test_overflow_counts_what_is_beyond_the_limit():
    """One of four cells is 2 above the limit, another 1 below its negative: (4 + 1) / 4."""
    states = torch.tensor([[[STATE_LIMIT + 2, 0.0]]]), torch.tensor([[[-STATE_LIMIT - 1, STATE_LIMIT]]])
    assert overflow(states) == pytest.approx(1.25)


def test_next_loss_is_free_of_the_unit():
    after, quantiles = torch.randn(2, 5), torch.randn(2, 5, 13)
    plain = next_loss(after, torch.ones(2, 5), torch.ones(2), quantiles)
    torch.testing.assert_close(next_loss(7 * after, torch.ones(2, 5), torch.full((2,), 7.0), 7 * quantiles), plain)
