"""Synthetic series: endless, varied univariate histories for training the forecasters.

A series is a random sum of components (smooth waves, seasons, trends, random walks, autoregressions, level shifts and
noise), and may then be made multiplicative, turned into counts, cut at zero or rounded. The component of smooth waves
is a draw from a Gaussian process with a squared-exponential kernel. It knows neither models nor real data.

Invariant: the same seed, count and length give the same series, and every value is finite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from service.contract.provenance import DataSource

Values = npt.NDArray[np.float64]
SOURCE = DataSource(name="synthetic series", part="drawn by seed (training/series/synthetic.py): trained on")
UNSEEN_SEED = 2**62  # and more: beyond every seed that training draws with

Component = Callable[[np.random.Generator, int, int], Values]

# Steps per cycle of common calendars: quarters, workdays, days, months, weeks of a quarter and of a year, hours of a
# day, half-hours, quarter-hours, hours of a week.
CALENDAR_PERIODS = np.array([4, 5, 7, 12, 13, 24, 26, 48, 52, 96, 168])


def synthesize_series(seed: int, count: int, length: int) -> Values:
    """Draw `count` series of `length` values, each drawn on its own.

    Shapes: returns [count, length].
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((count, length))
    for component, probability in COMPONENTS:
        chosen = np.flatnonzero(rng.random(count) < probability)
        amplitude = np.exp(rng.normal(0.0, 1.0, (len(chosen), 1)))
        total[chosen] += amplitude * component(rng, len(chosen), length)
    total += 1e-3 * rng.normal(size=(count, length)) * np.exp(rng.normal(0.0, 2.0, (count, 1)))
    return _place(rng, _reshape_values(rng, total))


def draw_walk(rng: np.random.Generator, length: int) -> npt.NDArray[np.float32]:
    """Draw a random walk for the parity suite. A third of the walks rest between their moves, a third are all zeros.

    Its size is about 1: at 64, a single step between float32 numbers is 7.6e-6, nearly the bound of parity.

    Shapes: returns [length] float32.
    """
    moves = rng.normal(size=length) * (rng.random(length) < rng.choice([0.0, 0.1, 1.0]))
    return np.cumsum(moves / np.sqrt(max(length, 1))).astype(np.float32)


def _unit(values: Values) -> Values:
    """Centre each row and scale it to a standard deviation of one."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-9))


def _log_uniform(rng: np.random.Generator, low: float, high: float, count: int) -> Values:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), (count, 1))))


def _waves(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw from a Gaussian process with a squared-exponential kernel.

    Source: random Fourier features, Rahimi and Recht, NIPS 2007.
    """
    scale = _log_uniform(rng, 4, length, count)
    total = np.zeros((count, length))
    for _ in range(16):
        frequency = rng.normal(size=(count, 1)) / scale
        total += np.cos(frequency * np.arange(length) + rng.uniform(0, 2 * np.pi, (count, 1)))
    total /= np.sqrt(8)  # sixteen cosines have a variance of eight
    return total


def _season(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw a periodic pattern of up to six harmonics, or of narrow pulses, whose size drifts slowly."""
    calendar = rng.choice(CALENDAR_PERIODS, (count, 1)).astype(float)
    period = np.where(rng.random((count, 1)) < 0.7, calendar, _log_uniform(rng, 3, length / 2, count))
    phase = 2 * np.pi * np.arange(length) / period
    decay = rng.uniform(0, 2, (count, 1))
    pattern = np.zeros((count, length))
    for harmonic in range(1, 7):
        weight = rng.normal(size=(count, 1)) * float(harmonic) ** -decay
        pattern += weight * np.cos(harmonic * phase + rng.uniform(0, 2 * np.pi, (count, 1)))
    sharpness = _log_uniform(rng, 2, 50, count)
    pulses = np.exp(sharpness * (np.cos(phase + rng.uniform(0, 2 * np.pi, (count, 1))) - 1))
    pattern = np.where(rng.random((count, 1)) < 0.2, pulses, pattern)
    drift = np.exp(rng.choice([0.0, 0.3], (count, 1)) * _waves(rng, count, length))
    return np.asarray(_unit(pattern) * drift)


def _trend(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw a line with one or no bend."""
    time = np.linspace(0, 1, length)
    bend = np.maximum(time - rng.random((count, 1)), 0) * rng.choice([0.0, 1.0], (count, 1))
    slope, change = rng.normal(0.0, 3.0, (count, 1)), rng.normal(0.0, 6.0, (count, 1))
    return np.asarray(slope * time + change * bend)


def _shocks(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw independent shocks, normal or of Student's t (3 degrees), whose volatility may move slowly."""
    heavy = rng.standard_t(3, (count, length)) / np.sqrt(3)
    shocks = np.where(rng.random((count, 1)) < 0.5, heavy, rng.normal(size=(count, length)))
    volatility = np.exp(rng.choice([0.0, 0.7], (count, 1)) * _waves(rng, count, length))
    return np.asarray(shocks * volatility)


def _walk(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw a random walk, which may rest between moves."""
    moves = _shocks(rng, count, length) * (rng.random((count, length)) < rng.choice([1.0, 1.0, 0.2], (count, 1)))
    return np.cumsum(moves * (3 / np.sqrt(length)), axis=1)


def _autoregression(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw a stationary AR(2) process by its poles: two real ones, or a damped cycle."""
    radius = 1 - _log_uniform(rng, 0.01, 1, count)[:, 0]
    other = rng.uniform(-0.9, 0.9, count) * radius
    angle = 2 * np.pi / _log_uniform(rng, 3, length / 2, count)[:, 0]
    cycle = rng.random(count) < 0.4
    first = np.where(cycle, 2 * radius * np.cos(angle), radius + other)
    second = np.where(cycle, -(radius**2), -radius * other)
    series = _shocks(rng, count, length)
    for step in range(2, length):
        series[:, step] += first * series[:, step - 1] + second * series[:, step - 2]
    return _unit(series)


def _shifts(rng: np.random.Generator, count: int, length: int) -> Values:
    """Draw a level that jumps a few times."""
    rate = _log_uniform(rng, 1, 10, count) / length
    return np.cumsum((rng.random((count, length)) < rate) * rng.normal(size=(count, length)), axis=1)


def _noise(rng: np.random.Generator, count: int, length: int) -> Values:
    return 0.5 * _shocks(rng, count, length)


COMPONENTS: tuple[tuple[Component, float], ...] = (
    (_waves, 0.3),
    (_season, 0.5),
    (_season, 0.25),
    (_trend, 0.4),
    (_walk, 0.45),
    (_autoregression, 0.3),
    (_shifts, 0.15),
    (_noise, 0.5),
)


def _reshape_values(rng: np.random.Generator, total: Values) -> Values:
    """Turn a part of the series multiplicative, into counts, non-negative, coarse or upside down."""
    count = len(total)
    kind = rng.random((count, 1))
    unit = _unit(total)
    growth = np.exp(np.clip(rng.uniform(0.1, 1.0, (count, 1)) * unit, -6, 6))
    counts = rng.poisson(growth * _log_uniform(rng, 0.05, 20, count)).astype(float)
    rest = np.maximum(unit + rng.uniform(-1, 1, (count, 1)), 0)
    coarse = np.round(unit * _log_uniform(rng, 2, 50, count))
    shaped = np.select([kind < 0.2, kind < 0.3, kind < 0.33, kind < 0.38], [growth, counts, rest, coarse], total)
    return np.where(rng.random((count, 1)) < 0.15, -shaped, shaped)


def _place(rng: np.random.Generator, values: Values) -> Values:
    """Give each series its own unit, and every second one its own origin."""
    count = len(values)
    origin = rng.choice([0.0, 10.0], (count, 1)) * rng.normal(size=(count, 1))
    return (values + origin) * np.exp(rng.normal(0.0, 3.0, (count, 1)))
