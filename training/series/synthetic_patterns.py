"""Synthetic series that repeat or grow as plainly as a person would draw them, with little noise or none.

Exact seasons of every shape, alone, nested, on trends, additive or growing with the level; lines, curves and steps;
sparse counts; and draws from Gaussian processes whose kernels are random sums and products. Series of `synthetic` are
rougher; a forecaster that saw only those continues a noiseless season roughly. It knows neither models nor real data.

Invariant: the same seed, count and length give the same series, and every value is finite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from service.contract.provenance import DataSource

Values = npt.NDArray[np.float64]
SOURCE = DataSource(name="synthetic patterns", part="drawn by seed (training/series/synthetic_patterns.py): trained on")

Pattern = Callable[[np.random.Generator, int], Values]

# Steps per cycle: quarters, workdays, days, months, weeks of a quarter and of a year, hours, half-hours, and others.
CALENDAR_PERIODS = (4, 5, 7, 12, 13, 24, 30, 48, 52, 96, 168)
NESTED_PERIODS = ((24, 168), (7, 28), (7, 91), (12, 48), (5, 20), (48, 336), (4, 52))
KERNEL_SERIES = 8  # drawn from one composed kernel, which costs more than the drawing
JITTER = 1e-6  # on a kernel's diagonal, so that rounding leaves it positive


def synthesize_patterns(seed: int, count: int, length: int) -> Values:
    """Draw `count` series of `length` values.

    Shapes: returns [count, length].
    """
    rng = np.random.default_rng([seed, 1])
    kinds, shares = zip(*PATTERNS, strict=True)
    series: list[Values] = []
    while len(series) < count:
        drawn = kinds[rng.choice(len(kinds), p=shares)](rng, length)
        series += list(np.atleast_2d(drawn))
    values = np.array(series[:count]).reshape(count, length)
    unit = np.exp(rng.normal(0.0, 3.0, (count, 1)))
    return np.asarray(values * unit * rng.choice([1.0, 1.0, 1.0, -1.0], (count, 1)))


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(rng: np.random.Generator, length: int) -> Values:
    """Draw nothing in half of all cases, else noise of a thousandth to a half."""
    size = 0.0 if rng.random() < 0.5 else _log_uniform(rng, 1e-3, 0.5)
    return size * rng.normal(size=length)


def _period(rng: np.random.Generator, length: int) -> float:
    kind = rng.random()
    if kind < 0.5:
        return float(rng.choice(CALENDAR_PERIODS))
    longest = length / 4
    if kind < 0.8:
        return float(rng.integers(2, int(longest) + 1))
    return _log_uniform(rng, 4, longest)


def _shape(rng: np.random.Generator, period: float, length: int) -> Values:
    """Draw one season without noise, about zero and of about unit size."""
    place = (np.arange(length) / period + rng.random()) % 1
    kind = rng.integers(7)
    if kind == 0:
        wave = np.sin(2 * np.pi * place)
    elif kind == 1:  # any value for any step of a whole period
        table = rng.normal(size=max(round(period), 2))
        wave = table[np.arange(length) % len(table)]
    elif kind == 2:  # saw, or triangle
        peak = rng.choice([1e-9, rng.uniform(0.1, 0.9)])
        wave = np.where(place < peak, place / peak, (1 - place) / (1 - peak)) - 0.5
    elif kind == 3:  # on and off
        wave = (place < rng.uniform(0.1, 0.9)) - 0.5
    elif kind == 4:  # half a wave, and rest
        wave = np.maximum(np.sin(2 * np.pi * place), 0)
    else:
        harmonics = np.arange(1, rng.integers(2, 8))[:, None]
        size = rng.normal(size=harmonics.shape) / harmonics ** rng.uniform(0, 2)
        wave = (size * np.sin(2 * np.pi * (harmonics * place + rng.random(harmonics.shape)))).sum(0)
    return np.asarray(wave / max(float(np.std(wave)), 0.1))


def _seasons(rng: np.random.Generator, length: int) -> Values:
    """Draw one season or two nested ones."""
    if rng.random() < 0.75:
        return _shape(rng, _period(rng, length), length)
    short, long = NESTED_PERIODS[rng.integers(len(NESTED_PERIODS))]
    inner, outer = _shape(rng, short, length), _shape(rng, long, length)
    if rng.random() < 0.3:  # as weekends damp days
        return np.asarray(inner * np.exp(0.5 * outer))
    return np.asarray(inner + _log_uniform(rng, 0.2, 2) * outer)


def _growth(rng: np.random.Generator, length: int) -> Values:
    """Draw a line, a power, a saturating, exponential or bent curve of about unit rise; upward or downward."""
    time = np.arange(length) / length
    kind = rng.integers(5)
    if kind == 0:
        curve = time
    elif kind == 1:
        curve = (time + 0.02) ** rng.uniform(0.3, 2.5)
    elif kind == 2:
        curve = 1 / (1 + np.exp(-rng.uniform(4, 15) * (time - rng.uniform(0.1, 0.9))))
    elif kind == 3:
        rate = rng.uniform(0.5, 4)
        curve = np.expm1(rate * time) / np.expm1(rate)
    else:
        curve = time + rng.normal() * 2 * np.maximum(time - rng.random(), 0)
    return np.asarray(curve * rng.choice([1.0, 1.0, -1.0]))


def _season_and_trend(rng: np.random.Generator, length: int) -> Values:
    """Add up seasons, a trend in two of three, a level that shifts in one of six, and noise."""
    total = _seasons(rng, length) + _noise(rng, length)
    if rng.random() < 0.6:
        total += _log_uniform(rng, 0.3, 30) * _growth(rng, length)
    if rng.random() < 0.15:
        total += rng.normal(0.0, 2.0) * (np.arange(length) > rng.integers(length))
    return _with_outliers(rng, total) + rng.normal(0.0, 5.0)


def _multiplied(rng: np.random.Generator, length: int) -> Values:
    """Let seasons and noise grow with a positive level."""
    level = np.exp(rng.uniform(0.3, 3.0) * _growth(rng, length))
    depth = _log_uniform(rng, 0.02, 0.6)
    factor = np.exp(depth * np.clip(_seasons(rng, length) + _noise(rng, length), -4, 4))
    return np.asarray(level * factor)


def _wandering(rng: np.random.Generator, length: int) -> Values:
    """Draw seasons under noise that remembers, on a level that wanders: as loads, sales and weather are."""
    memory = 1 - _log_uniform(rng, 0.02, 1)
    shocks = rng.normal(size=length) if rng.random() < 0.6 else rng.standard_t(3, length) / np.sqrt(3)
    noise = np.empty(length)
    carried = rng.normal()
    for step, shock in enumerate(np.sqrt(1 - memory**2) * shocks):
        carried = memory * carried + shock
        noise[step] = carried
    wander = np.cumsum(rng.normal(size=length)) * _log_uniform(rng, 0.003, 0.1)
    swell = np.exp(_log_uniform(rng, 0.003, 0.03) * np.cumsum(rng.normal(size=length)))
    return np.asarray(_seasons(rng, length) * swell + wander + _log_uniform(rng, 0.1, 2) * noise)


def _plain(rng: np.random.Generator, length: int) -> Values:
    """Draw a trend alone, with noise or none."""
    curve = _log_uniform(rng, 0.5, 10) * _growth(rng, length)
    return np.asarray(curve + _noise(rng, length) + rng.normal(0.0, 3.0))


def _counts(rng: np.random.Generator, length: int) -> Values:
    """Draw counts, mostly small: a rate that may have seasons and a trend, rests between, and bursts."""
    rate = np.full(length, _log_uniform(rng, 0.05, 30))
    if rng.random() < 0.5:
        rate = rate * np.exp(rng.uniform(0.2, 1.0) * np.clip(_seasons(rng, length), -3, 3))
    if rng.random() < 0.4:
        rate = rate * np.exp(np.clip(rng.normal(0.0, 1.0) * _growth(rng, length), -3, 3))
    if rng.random() < 0.4:
        shape = _log_uniform(rng, 0.3, 5)
        rate = rate * rng.gamma(shape, 1 / shape, length)
    if rng.random() < 0.3:
        rate = rate * (rng.random(length) < rng.uniform(0.1, 0.9))
    return np.asarray(rng.poisson(np.minimum(rate, 1e6)).astype(float))


def _with_outliers(rng: np.random.Generator, series: Values) -> Values:
    if rng.random() < 0.9:
        return series
    hit = rng.random(len(series)) < rng.uniform(0.002, 0.02)
    return np.asarray(series + hit * rng.normal(0.0, 4 * series.std(), len(series)))


def _composed(rng: np.random.Generator, length: int) -> Values:
    """Draw series from a Gaussian process of one to five kernels, summed and multiplied at random.

    Shapes: returns [`KERNEL_SERIES`, length].
    Source: the idea of composing kernels, Duvenaud et al., Structure discovery in nonparametric regression, ICML 2013.
    """
    kernel = _kernel(rng, length)
    for _ in range(rng.integers(0, 5)):
        kernel = kernel + _kernel(rng, length) if rng.random() < 0.5 else kernel * _kernel(rng, length)
    kernel[np.diag_indices(length)] *= 1 + JITTER
    kernel[np.diag_indices(length)] += JITTER * kernel.diagonal().mean()
    return np.asarray(rng.normal(size=(KERNEL_SERIES, length)) @ np.linalg.cholesky(kernel).T)


def _kernel(rng: np.random.Generator, length: int) -> Values:
    """Draw one kernel over the steps: smooth, rational, periodic, linear or white. Shapes: returns [length, length]."""
    apart = np.arange(length)
    kind = rng.choice(5, p=(0.2, 0.15, 0.4, 0.15, 0.1))
    if kind == 3:
        time = np.linspace(-0.2, 1, length) * 2
        return np.asarray(np.outer(time, time) + 0.01)
    if kind == 0:
        row = np.exp(-0.5 * (apart / _log_uniform(rng, 4, length)) ** 2)
    elif kind == 1:
        power = _log_uniform(rng, 0.1, 10)
        row = (1 + (apart / _log_uniform(rng, 4, length)) ** 2 / (2 * power)) ** -power
    elif kind == 2:
        period = _period(rng, length)
        row = np.exp(-2 * (np.sin(np.pi * apart / period) / _log_uniform(rng, 0.4, 2)) ** 2)
    else:
        row = _log_uniform(rng, 1e-3, 0.3) * (apart == 0)
    return np.asarray(row[np.abs(apart[:, None] - apart)])


# Shares of draws; a draw from kernels brings `KERNEL_SERIES` series.
PATTERNS: tuple[tuple[Pattern, float], ...] = (
    (_wandering, 0.27),
    (_season_and_trend, 0.34),
    (_multiplied, 0.14),
    (_plain, 0.07),
    (_counts, 0.13),
    (_composed, 0.05),
)
