"""The live forecaster's loss and chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.series.data import Mixture
from training.tasks.forecast.module import WindowSettings
from training.tasks.forecast_live.calibration import HeldOut
from training.tasks.forecast_live.module import (
    CHUNK,
    GLITCH_EVERY,
    GLITCHED,
    ROWS,
    WIDTH,
    Chunks,
    LiveModule,
    draw_glitches,
    next_loss,
    step_units,
)
from training.tasks.forecast_live.network import LiveNetwork

SETTINGS = WindowSettings(windows=4, weekly_share=0.4, hidden=1, layers=1, learning_rate=1e-3)


@pytest.fixture
def mixture() -> Mixture:
    rng = np.random.default_rng(0)
    weekly = [rng.normal(size=length).cumsum() for length in (80, 700)]
    return Mixture.of(weekly, rng.normal(size=(17420, 7)), weekly_share=0.4, ett_share=0.2)


def test_windows_of_an_epoch_repeat_by_seed(mixture):
    """What an epoch draws depends on seed and epoch alone, so that a resumed run goes on where it stopped."""
    held_out = Chunks(torch.zeros(1, 2), torch.tensor([2]))
    calibration = HeldOut(np.empty((0, 1)), 0)

    def live(seed: int) -> LiveModule:
        return LiveModule(SETTINGS, LiveNetwork(), mixture, held_out, calibration, seed)

    first, again, other = (live(seed).draw(100)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_chunks_go_through_each_window_once():
    values = torch.arange(2.0 * WIDTH).view(2, -1)
    chunks = list(Chunks(values, torch.tensor([WIDTH, 100], dtype=torch.int32)))
    assert len(chunks) == WIDTH // CHUNK
    assert [bool(first) for *_, first in chunks] == [True] + [False] * (len(chunks) - 1)
    assert torch.equal(torch.cat([now for now, *_ in chunks], 1), values)
    assert torch.equal(torch.cat([after for _, after, *_ in chunks], 1), values[:, 1:])
    assert torch.cat([real for _, _, real, *_ in chunks], 1).sum(1).tolist() == [WIDTH - 1, 99]


def test_chunks_group_rows():
    chunks = Chunks(torch.zeros(ROWS + 1, CHUNK), torch.full((ROWS + 1,), CHUNK, dtype=torch.int32))
    assert [len(now) for now, *_ in chunks] == [ROWS, 1]


def test_a_glitch_and_the_step_back_from_it_are_not_to_be_foreseen():
    """They are seen, in units of the window as it was, and what follows is learned from again."""
    values, glitches = torch.arange(10.0)[None] * 2, torch.zeros(1, 10)
    glitches[0, 4] = 1000
    ((now, after, real, unit, _),) = Chunks(values, torch.tensor([10]), glitches)
    assert unit.tolist() == [2]
    assert now[0].tolist() == [0, 2, 4, 6, 2008, 10, 12, 14, 16, 18]
    assert after[0].tolist() == now[0, 1:].tolist()
    assert real[0].tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1]


def test_glitches_are_drawn_by_seed_for_some_windows():
    first, again, other = (draw_glitches(seed, torch.Size((400, 1000))) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    spoilt = (first != 0).any(1).float().mean()
    assert abs(float(spoilt) - GLITCHED * (1 - (1 - 1 / GLITCH_EVERY) ** 1000)) < 0.1
    assert (first != 0).sum() / first.numel() < 2 * GLITCHED / GLITCH_EVERY
    sizes = first[first != 0].abs()
    assert 10 <= sizes.min() < 100
    assert 1e5 < sizes.max() <= 1e6


def test_step_units_are_mean_steps():
    values = torch.tensor([[1.0, 3, 0, 9], [5, 5, 5, 5]])
    assert step_units(values, torch.tensor([3, 4])).tolist() == [2.5, 1.0]


def test_next_loss_is_free_of_the_unit():
    after, quantiles = torch.randn(2, 5), torch.randn(2, 5, 13)
    plain = next_loss(after, torch.ones(2, 5), torch.ones(2), quantiles)
    torch.testing.assert_close(next_loss(7 * after, torch.ones(2, 5), torch.full((2,), 7.0), 7 * quantiles), plain)
