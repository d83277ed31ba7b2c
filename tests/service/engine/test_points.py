"""Points are drawn as the parameters of a mixture say, each by its own numbers alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from service.engine.drawing import Numbers
from service.engine.points import PointDraw, draw_points
from service.errors import NotFinite

COUNT = 20_000
WEIGHTS, MEANS = np.array([0.6, 0.3, 0.1]), np.array([[-40.0, 5.0], [0.0, 0.0], [40.0, -5.0]])
DEVIATIONS, CORRELATIONS = np.array([[1.0, 2.0], [0.5, 0.5], [3.0, 0.1]]), np.array([0.8, 0.0, -0.6])
END = 0.3
Floats = npt.NDArray[np.floating]


def raw(
    weights: Floats = WEIGHTS,
    means: Floats = MEANS,
    deviations: Floats = DEVIATIONS,
    correlations: Floats = CORRELATIONS,
    end: float = END,
) -> Floats:
    """Return parameters in their order, with the weights' logits well above zero."""
    parts = [[np.log(end / (1 - end))], np.log(weights) + 7, *means.T, *np.log(deviations).T, np.arctanh(correlations)]
    return np.concatenate(parts).astype(np.float32)


def drawn(made: Floats, bias: float = 0.0, count: int = COUNT) -> Floats:
    """Return the points of many sessions that are at the same point, each with numbers of its own."""
    numbers = Numbers(1)
    return draw_points(np.tile(made, (count, 1)), [PointDraw(numbers.four_at(step), bias) for step in range(count)])


@pytest.mark.parametrize("bias", [0.0, 0.5, 2.0])
def test_points_have_the_weights_means_deviations_and_correlations_of_the_mixture(bias: float) -> None:
    """Within four standard errors; the components are so far apart that each point shows its own."""
    points = drawn(raw(), bias).astype(np.float64)
    component = np.abs(points[:, None, 0] - MEANS[:, 0]).argmin(axis=1)
    biased = WEIGHTS ** (1 + bias) / (WEIGHTS ** (1 + bias)).sum()
    counts = np.bincount(component, minlength=3)
    assert np.all(np.abs(counts - COUNT * biased) <= 4 * np.sqrt(COUNT * biased * (1 - biased)))
    for index, count in enumerate(counts):
        if count < 100:  # the least likely, where the bias is high
            continue
        own, due = points[component == index, :2], DEVIATIONS[index] * np.exp(-bias)
        assert np.all(np.abs(own.mean(axis=0) - MEANS[index]) <= 4 * due / np.sqrt(count))
        assert np.all(np.abs(own.std(axis=0) / due - 1) <= 4 / np.sqrt(2 * count))
        correlation = np.corrcoef(own.T)[0, 1]
        assert abs(correlation - CORRELATIONS[index]) <= 4 * (1 - CORRELATIONS[index] ** 2) / np.sqrt(count)


@pytest.mark.parametrize("bias", [0.0, 3.0])
def test_strokes_end_as_often_as_their_logit_says_whatever_the_bias(bias: float) -> None:
    ends = drawn(raw(), bias)[:, 2]
    assert set(ends.tolist()) == {0.0, 1.0}
    assert abs(ends.sum() - COUNT * END) <= 4 * np.sqrt(COUNT * END * (1 - END))


def test_distances_from_the_mean_are_those_of_a_normal_plane() -> None:
    """A share of exp(-r^2 / 2) is further away than r deviations."""
    one = raw(np.ones(1), np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1))
    distances = np.hypot(*drawn(one)[:, :2].T)
    for bound in (0.5, 1, 2, 3):
        share = np.exp(-(bound**2) / 2)
        assert abs((distances > bound).sum() - COUNT * share) <= 4 * np.sqrt(COUNT * share * (1 - share))


def test_the_bias_makes_variances_smaller_by_the_square_of_its_exponential() -> None:
    one = raw(np.ones(1), np.zeros((1, 2)), np.array([[2.0, 0.5]]), np.array([0.5]))
    plain, biased = (drawn(one, bias, 500)[:, :2] for bias in (0.0, 1.5))
    np.testing.assert_allclose(biased.var(axis=0) / plain.var(axis=0), np.exp(-3), rtol=1e-4)
    np.testing.assert_allclose(biased, plain * np.exp(-1.5), rtol=1e-5)


def test_a_point_does_not_depend_on_who_is_drawn_for_beside_it() -> None:
    rng = np.random.default_rng(2)
    made, numbers = rng.normal(size=(53, 6 * 20 + 1), scale=2).astype(np.float32), Numbers(3)
    draws = [PointDraw(numbers.four_at(index), rng.random() * 2) for index in range(53)]
    together = draw_points(made, draws)
    for index in range(53):
        assert draw_points(made[[index]], [draws[index]]).tolist() == together[[index]].tolist()


@pytest.mark.parametrize("number", [0.0, float(np.nextafter(1, 0))])
def test_the_least_and_the_largest_numbers_make_a_point(number: float) -> None:
    ((x, y, _),) = draw_points(raw()[None], [PointDraw((number,) * 4)])
    assert abs(x - MEANS[-1 if number else 0, 0]) < 30
    assert abs(y) < 30


@pytest.mark.parametrize("bias", [0.0, 100.0])
def test_extreme_logits_choose_without_overflow(bias: float) -> None:
    """The largest of them, however large, and correlations of one."""
    made = raw(correlations=np.zeros(3))
    made[0], made[1:4], made[-3:] = -1e30, (1e30, 3e38, -3e38), 1e30
    (point,) = draw_points(made[None], [PointDraw((0.99, 0.5, 0.0, 0.0), bias)])
    x, y = MEANS[1] + 0.5 * np.exp(-bias) * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(point, [x, y, 0], rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize(
    ("place", "value"), [(0, np.nan), (1, np.inf), (4, np.nan), (10, 1e4), (10, 95.0), (18, np.nan)]
)
def test_no_point_is_drawn_from_what_is_not_finite_or_wider_than_float32(place: int, value: float) -> None:
    made = np.tile(raw(WEIGHTS[::-1].copy(), correlations=np.zeros(3)), (2, 1))
    made[1, place] = value
    draws = [PointDraw((0.05, 0.7, 0.1, 0.5))] * 2
    assert np.isfinite(draw_points(made[:1], draws[:1])).all()
    with pytest.raises(NotFinite, match="no point can be drawn"):
        draw_points(made, draws)
