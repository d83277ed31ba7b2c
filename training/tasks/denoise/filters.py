"""The classical filters beside which the denoisers are measured, each tuned on the training part.

It knows signals and filters, not networks or services. Each family is tried on every point of its grid; the best mean
output ratio over the training cases, all kinds of noise and input ratios together, chooses. As the denoisers, a filter
is not told which noise there is, nor how much.

Invariant: a filter that `tuned` returned was chosen without a look at the test part, and shifts nothing.
Source: the universal threshold of Donoho and Johnstone, Biometrika 1994, scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pywt
from scipy import signal

from training.tasks.denoise.data import RATE, Case, Values, output_ratio

Filter = Callable[[Values], Values]

LOW_HZ = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5)
HIGH_HZ = (20, 30, 40, 60, 100, 150)
TAPS = (721, 1441, 2881)
ORDERS = (1, 2, 3, 4)
WAVELETS = ("db6", "sym8", "coif3")
LEVELS = (7, 8, 9)
SHARES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Tuned:
    """A filter, and its point of the grid in words."""

    name: str
    apply: Filter


def tuned(training: Sequence[Case]) -> tuple[Tuned, ...]:
    """Return the best of each family on `training`."""

    def mean_ratio(candidate: Tuned) -> float:
        return float(np.mean([output_ratio(case.clean, candidate.apply(case.noisy)) for case in training]))

    return tuple(max(family, key=mean_ratio) for family in (fir(), iir(), wavelet()))


def fir() -> Iterator[Tuned]:
    """Yield band-passes of a Hamming window, centred, the signal mirrored at its ends."""
    for low, high, taps in product(LOW_HZ, HIGH_HZ, TAPS):
        weights = signal.firwin(taps, (low, high), pass_zero=False, fs=RATE)

        def apply(noisy: Values, weights: Values = weights) -> Values:
            mirrored = np.pad(noisy, len(weights) // 2, mode="reflect")
            filtered: Values = signal.fftconvolve(mirrored, weights, "valid")
            return filtered

        yield Tuned(f"FIR band-pass of {low} to {high} Hz with {taps} taps", apply)


def iir() -> Iterator[Tuned]:
    """Yield Butterworth band-passes, forward and backward."""
    for low, high, order in product(LOW_HZ, HIGH_HZ, ORDERS):
        sections = signal.butter(order, (low, high), "bandpass", fs=RATE, output="sos")

        def apply(noisy: Values, sections: Values = sections) -> Values:
            filtered: Values = signal.sosfiltfilt(sections, noisy)
            return filtered

        yield Tuned(f"IIR Butterworth band-pass of {low} to {high} Hz, order {order}, both ways", apply)


def wavelet() -> Iterator[Tuned]:
    """Yield wavelet shrinkage: no approximation, details beyond a share of the universal threshold.

    The deviation of the noise is estimated from the finest details, or for each level from its own.
    """
    for name, level, share, mode, own in product(WAVELETS, LEVELS, SHARES, ("soft", "hard"), (False, True)):

        def apply(noisy: Values, point: tuple[str, int, float, str, bool] = (name, level, share, mode, own)) -> Values:
            return shrunk(noisy, *point)

        noise = "each level's own" if own else "the finest level's"
        yield Tuned(f"wavelet {name} of {level} levels, {mode} at {share} thresholds of {noise} noise", apply)


def shrunk(noisy: Values, name: str, level: int, share: float, mode: str, own: bool) -> Values:
    """Return a signal after shrinkage of its wavelet details, and without its approximation."""
    approximation, *details = pywt.wavedec(noisy, name, level=level)
    deviations = [np.median(np.abs(detail)) / 0.6745 for detail in details]
    unit = share * np.sqrt(2 * np.log(len(noisy)))
    kept = [
        pywt.threshold(detail, unit * (deviation if own else deviations[-1]), mode)
        for detail, deviation in zip(details, deviations, strict=True)
    ]
    answer: Values = pywt.waverec([np.zeros_like(approximation), *kept], name)
    return answer[: len(noisy)]
