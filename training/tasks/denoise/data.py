"""ECGs and noise in their parts, and mixtures of both at stated signal-to-noise ratios.

It knows the files and the parts, not networks or services. A record is clean once everything below 0.5 Hz is filtered
out of it, forward and backward so that nothing is shifted: its own wander of the baseline is noise, too, and would
otherwise be asked back. The split is by place: in the order of their names every fifth record from the second is for
test, every tenth from the ninth chooses the checkpoint, the rest trains. (201 and 202, of the same person, both
train.) Of each kind of noise the first 18 minutes train, the next 6 choose the checkpoint, the last 6 are for test.

Signal-to-noise ratios of mixtures are those of the Noise Stress Test Database, by the range of beats and the noise
within a second: "0 dB" is far noisier than by variances over the whole, as a beat stands out of a mostly quiet record,
and slow noise counts little. Ratios of answers are plain: the power of the clean signal over that of the error.

Invariant: no part holds a record or a stretch of noise of another.
Source: Moody and Mark, The impact of the MIT-BIH Arrhythmia Database, IEEE EMB Magazine 2001; Moody, Muldrow and Mark,
A noise stress test for arrhythmia detectors, Computers in Cardiology 1984.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from scipy import signal, stats

from training.datasets import find

Values = npt.NDArray[np.float64]
Part = Literal["train", "validation", "test"]

RECORDS, NOISE, UNITS = "ecg/mitdb_5min.npz", "ecg/nstdb_noise.npz", "ecg/meta.json"
RATE = 360  # samples a second
KINDS = {"bw": "baseline wander", "em": "electrode motion", "ma": "muscle"}
RATIOS = (0, 6, 12, 18)  # dB
WANDER_HZ = 0.5
MINUTE = 60 * RATE
STRETCHES: dict[Part, slice] = {
    "train": slice(18 * MINUTE),
    "validation": slice(18 * MINUTE, 24 * MINUTE),
    "test": slice(24 * MINUTE, None),
}
DECIMALS = 4  # of a noisy sample in millivolts, fifty times finer than the records' own steps


@dataclass(frozen=True)
class Signals:
    """Clean records and noise of one part, each without its mean. Units: records in millivolts; noise of power 1."""

    records: dict[str, Values]
    noise: dict[str, Values]

    @classmethod
    def of(cls, records: dict[str, Values], noise: dict[str, Values], part: Part) -> Self:
        """Take a part of all clean records and all noise."""
        names = split_records(sorted(records))[part]
        stretches = {kind: samples[STRETCHES[part]] for kind, samples in noise.items()}
        return cls(
            {name: records[name] - records[name].mean() for name in names},
            {kind: (each - each.mean()) / np.sqrt(noise_power(each)) for kind, each in stretches.items()},
        )


@dataclass(frozen=True)
class Case:
    """A stretch of a record in noise. Units: both signals in millivolts, `ratio` in dB."""

    record: str
    kind: str
    ratio: int
    clean: Values
    noisy: Values


def split_records(names: list[str]) -> dict[Part, list[str]]:
    """Split records by their place in the order of their names."""
    test, validation = names[1::5], names[8::10]
    rest = [name for name in names if name not in (*test, *validation)]
    return {"train": rest, "validation": validation, "test": test}


def read_part(part: Part) -> Signals:
    """Read a part of the records and of the noise. Raises: DataError."""
    units = json.loads(find(UNITS).path.read_text(encoding="utf-8"))
    with np.load(find(RECORDS).path) as held:
        records = {
            name: without_wander((held[name] - float(units[name]["adc_zero"])) / units[name]["gain_per_mv"])
            for name in held.files
        }
    with np.load(find(NOISE).path) as held:
        return Signals.of(records, {kind: held[kind].astype(np.float64) for kind in KINDS}, part)


def without_wander(record: Values) -> Values:
    """Return a record without what is slower than `WANDER_HZ`, nothing shifted."""
    filtered: Values = signal.sosfiltfilt(signal.butter(2, WANDER_HZ, "highpass", fs=RATE, output="sos"), record)
    return filtered


def cases(signals: Signals, samples: int, seed: int = 0) -> Iterator[Case]:
    """Mix a stretch of each record, of so many samples, with one of each kind of noise, at each of `RATIOS`.

    Where the stretches begin is drawn by `seed`; the four ratios have the same stretches.
    """
    rng = np.random.default_rng(seed)
    for name, record in signals.records.items():
        for kind, noise in signals.noise.items():
            begins = [int(rng.integers(len(whole) - samples + 1)) for whole in (record, noise)]
            clean, added = (
                whole[begin : begin + samples] for whole, begin in zip((record, noise), begins, strict=True)
            )
            for ratio in RATIOS:
                yield Case(name, kind, ratio, clean, np.round(mixed(clean, added, ratio), DECIMALS))


def mixed(clean: Values, noise: Values, ratio: float) -> Values:
    """Add `noise` without its mean, scaled so that the signal-to-noise ratio is `ratio`.

    Shapes: all [samples]. Units: ratio in dB.
    """
    scale = np.sqrt(signal_power(clean) / noise_power(noise) / 10 ** (ratio / 10))
    added: Values = (noise - noise.mean()) * scale
    return clean + added


def signal_power(clean: Values) -> float:
    """Return the power of a sine that swings as far as the record's beats do: A^2 / 8 of their mean range A.

    The range is taken over every two seconds, which nearly always hold a beat. NSTDB takes it around each annotated
    beat.
    """
    return trimmed_mean(np.ptp(_cut(clean, 2 * RATE), axis=1)) ** 2 / 8


def noise_power(noise: Values) -> float:
    """Return the mean variance of the seconds."""
    return trimmed_mean(_cut(noise, RATE).var(axis=1))


def trimmed_mean(values: Values) -> float:
    """Return the mean without the largest and the smallest 5 %, as NSTDB takes it."""
    return float(stats.trim_mean(values, 0.05))


def _cut(samples: Values, width: int) -> Values:
    return samples[: len(samples) // width * width].reshape(-1, width)


def output_ratio(clean: Values, answer: Values) -> float:
    """Return the power of the clean signal over that of what an answer misses it by. Units: dB."""
    return float(10 * np.log10(np.sum(clean**2) / np.sum((clean - answer) ** 2)))
