"""Plain patterns for training: repeatable, finite, and among them series that repeat themselves exactly."""

from __future__ import annotations

import numpy as np
import pytest

from training.series.synthetic_patterns import KERNEL_SERIES, PATTERNS, synthesize_patterns


def test_patterns_repeat_by_seed() -> None:
    first, again, other = (synthesize_patterns(seed, 12, 120) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).all(axis=1).any()


@pytest.mark.parametrize("count", [0, 1, 30])
def test_patterns_are_as_many_and_finite(count: int) -> None:
    series = synthesize_patterns(0, count, 100)
    assert series.shape == (count, 100)
    assert np.isfinite(series).all()


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in PATTERNS])
def test_each_pattern_is_finite_and_varies(pattern) -> None:
    rng = np.random.default_rng(0)
    drawn = [np.atleast_2d(pattern(rng, 200)) for _ in range(20)]
    series = np.concatenate(drawn)
    assert {len(rows) for rows in drawn} <= {1, KERNEL_SERIES}
    assert np.isfinite(series).all()
    assert (series.std(axis=1) > 0).mean() >= 0.8


def test_some_patterns_repeat_themselves_exactly() -> None:
    """At least one series in fifty equals itself some steps ago, up to its trend, to a millionth of its spread."""
    exact = 0
    for series in synthesize_patterns(0, 200, 400):
        changes = (series[lag:] - series[:-lag] for lag in range(2, 101))
        exact += min(change.std() for change in changes) < 1e-6 * series.std()
    assert exact >= 4
