"""Conformal offsets: coverage as promised, nothing changed by zeros, quantiles in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.series.conformal import apply_offsets, conformal_offsets

LEVELS = (0.025, 0.1, 0.3, 0.5, 0.7, 0.9, 0.975)
# The quantiles of a standard normal at these levels.
NORMAL = np.array([-1.95996, -1.28155, -0.52440, 0.0, 0.52440, 1.28155, 1.95996])


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal values around known middles, each of its own scale, with quantiles that are too narrow and off centre."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0.0, 2.0, count))
    actual = scale * rng.normal(size=count)
    return actual, scale[:, None] * (0.1 + 0.6 * NORMAL)


def below(actual: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    return (actual[:, None] <= quantiles).mean(axis=0)


def moved(quantiles: np.ndarray, offsets: tuple[float, ...]) -> np.ndarray:
    return apply_offsets(torch.from_numpy(quantiles), torch.tensor(offsets, dtype=torch.float64), LEVELS).numpy()


def test_offsets_bring_new_values_to_each_level() -> None:
    """On values exchangeable with those that calibrated, each level holds its share; before, the outer ones did not."""
    offsets = conformal_offsets(*drawn(0, 20_000), LEVELS)
    actual, quantiles = drawn(1, 20_000)
    outer = [0, 1, 2, 4, 5, 6]
    # Two binomial errors of 20,000 values and of as many that calibrated are under 0.01.
    np.testing.assert_allclose(below(actual, moved(quantiles, offsets))[outer], np.array(LEVELS)[outer], atol=0.01)
    assert np.abs(below(actual, quantiles) - LEVELS)[[0, 1, 5, 6]].min() > 0.03


def test_few_values_cover_at_least_what_is_promised() -> None:
    """Averaged over calibrations on 39 values, which just suffice, the outer levels hold their share or more."""
    actual, quantiles = drawn(1, 2000)
    covered = np.mean(
        [below(actual, moved(quantiles, conformal_offsets(*drawn(seed, 39), LEVELS))) for seed in range(2, 300)], axis=0
    )
    assert covered[-1] >= 0.975 - 0.005
    assert covered[0] <= 0.025 + 0.005


def test_too_few_values_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(ValueError, match=r"level 0\.025 cannot be calibrated on 38 values; bring 39 or more"):
        conformal_offsets(*drawn(0, 38), LEVELS)


def test_quantiles_on_the_median_are_refused() -> None:
    """No multiple of a distance of zero reaches anything."""
    with pytest.raises(ValueError, match="lies on the median too often"):
        conformal_offsets(np.arange(-50.0, 50), np.zeros((100, len(LEVELS))), LEVELS)


def test_offsets_are_free_of_the_unit() -> None:
    actual, quantiles = drawn(0, 500)
    plain = conformal_offsets(actual, quantiles, LEVELS)
    assert conformal_offsets(1e6 * actual, 1e6 * quantiles, LEVELS) == pytest.approx(plain)


def test_zero_offsets_change_nothing() -> None:
    _, quantiles = drawn(0, 100)
    np.testing.assert_array_equal(moved(quantiles, (0.0,) * len(LEVELS)), quantiles)


def test_offsets_never_cross_quantiles_nor_move_the_median() -> None:
    """Whatever the offsets, quantiles in order come out in order around the same median."""
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(200, len(LEVELS))))
    for _ in range(20):
        answers = moved(quantiles, tuple(rng.normal(0.0, 3.0, len(LEVELS))))
        assert (np.diff(answers) >= 0).all()
        np.testing.assert_array_equal(answers[:, 3], quantiles[:, 3])
