"""Detectors whose figures the Numenta Anomaly Benchmark publishes, written anew: they prove the scorer.

They know values, neither windows nor scoring. Invariant: a score depends on no later value.

Source: github.com/numenta/NAB, which gives 0 for silence, 11.0 for random scores and 39.6 for the windowed Gaussian.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import erfc

Values = npt.NDArray[np.float64]

GAUSSIAN_WINDOW, GAUSSIAN_STEP = 6400, 100  # values, and values by which the full window moves on
SMALLEST_DEVIATION = 1e-6  # of a window whose values are all the same


def silence(values: Values) -> Values:
    """Score every value the same. Shapes: [time], and the same."""
    return np.full(len(values), 0.5)


def random_scores(values: Values, rng: np.random.Generator) -> Values:
    """Score values by chance. Shapes: [time], and the same."""
    return rng.random(len(values))


def windowed_gaussian(values: Values) -> Values:
    """Score each value by one less the tail probability of its distance from the mean of those in the window before.

    Shapes: [time], and the same.
    """
    scores = np.zeros(len(values))
    mean, deviation = 0.0, 1.0
    for at, value in enumerate(values):
        if at:
            scores[at] = 1 - 0.5 * erfc(abs(value - mean) / deviation / np.sqrt(2))
        beyond = at + 1 - GAUSSIAN_WINDOW
        if beyond <= 0 or beyond % GAUSSIAN_STEP == 0:
            window = values[max(beyond, 0) : at + 1]
            mean, deviation = window.mean(), window.std() or SMALLEST_DEVIATION
    return scores
