"""The forecaster's loss and anchors."""

from __future__ import annotations

import numpy as np
import torch

from training.series.data import Mixture
from training.series.metrics import pinball
from training.tasks.forecast.module import (
    ForecastModule,
    WindowSettings,
    draw_anchors,
    future_loss,
    futures,
    held_out_futures,
    pinball_loss,
)
from training.tasks.forecast.network import HORIZON, MAX_HISTORY, SEGMENT, ForecastNetwork


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
    np.testing.assert_allclose(got.mean(1).numpy(), pinball(actual, quantiles), rtol=1e-6)


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
    quantiles, level, one = torch.zeros(1, 1, HORIZON, 13), torch.zeros(1, 1), torch.ones(1, 1)
    known = torch.zeros(1, 1, HORIZON)
    known[..., 0] = 1
    future = torch.full((1, 1, HORIZON), 1e6)
    future[..., 0] = 0
    assert future_loss(future, known, quantiles, level, one, one) == 0


def test_future_loss_counts_exact_histories_more():
    """The same miss weighs twice as much where the best lag was off by a quarter of a scale."""
    quantiles, level, one = torch.zeros(1, 1, HORIZON, 13), torch.zeros(1, 1), torch.ones(1, 1)
    known, future = torch.ones(1, 1, HORIZON), torch.ones(1, 1, HORIZON)
    plain, exact = (future_loss(future, known, quantiles, level, one, spread * one) for spread in (1.0, 0.25))
    torch.testing.assert_close(exact, 2 * plain)


def test_offsets_bring_the_calibration_futures_to_their_levels():
    """Served with its own offsets, a network holds each level's share of the futures that calibrated it."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    rows = [(series[:60], series[60:]) for series in rng.normal(size=(200, 60 + HORIZON)).cumsum(axis=1)]
    calibration = held_out_futures(rows)
    settings = WindowSettings(windows=1, weekly_share=0, hidden=16, layers=1, learning_rate=1e-3)
    network = ForecastNetwork(settings.hidden, settings.layers, 24)
    module = ForecastModule(settings, network, Mixture([], [], 0, 0), calibration, calibration, seed=0)
    offsets = torch.tensor(module.offsets())
    values, lengths, future, _ = calibration.tensors
    with torch.no_grad():
        _, quantiles = module.network(values, lengths, offsets)
    below = (future[..., None] <= quantiles).float().mean((0, 1))
    assert offsets[6] == 0
    # Between levels the running bounds may push a quantile outward: the outermost are free of that.
    np.testing.assert_allclose(below[[0, 12]], [0.025, 0.975], atol=0.005)
