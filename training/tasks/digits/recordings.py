"""The Free Spoken Digit Dataset: recordings of single digits by six speakers, in parts, and as others would sound.

It knows the file's layout and the known split, no network. A recording that is trained on is sped up or slowed down,
which moves its formants too, placed in a longer row, made louder or softer, and covered with noise.

Invariant: a batch's rows are all of the same number of frames, each with its whole recording.
Source: Jakobovski et al., github.com/Jakobovski/free-spoken-digit-dataset, for the data and the test part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.tasks.digits.features import FRAME

Signal = npt.NDArray[np.float32]
Batch = tuple[Tensor, Tensor, Tensor]
Part = Literal["test", "held out", "train"]

FULL_SCALE = 32768  # of 16-bit samples
# The numbers of a speaker's recordings of a digit. Those held out choose the checkpoint.
NUMBERS: dict[Part, range] = {"test": range(5), "held out": range(5, 10), "train": range(10, 50)}
LONGEST_PAUSE = 1600  # samples of silence beside a recording
GAIN_DB = (-25.0, 15.0)
NOISE_DB = (10.0, 60.0)  # how far the noise is below the recording
EITHER = 0.5  # how often there is a pause, in a batch as in a row, and how often noise


@dataclass(frozen=True)
class Recordings:
    """Signals in -1 to 1, the digit that each holds, and who speaks."""

    signals: tuple[Signal, ...]
    digits: tuple[int, ...]
    speakers: tuple[str, ...]
    numbers: tuple[int, ...]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the data set. A recording's name tells digit, speaker and number, as in `7_jackson_32.wav`."""
        with np.load(file) as held:
            samples = held["samples"].astype(np.float32) / FULL_SCALE
            signals = tuple(
                samples[start : start + length] for start, length in zip(held["starts"], held["lengths"], strict=True)
            )
            names = [str(name).removesuffix(".wav").split("_") for name in held["names"]]
        digits, speakers, numbers = zip(*names, strict=True)
        return cls(signals, tuple(map(int, digits)), speakers, tuple(map(int, numbers)))

    def part(self, name: Part) -> Self:
        """Return the recordings of that part, of all speakers."""
        return self._at([place for place, number in enumerate(self.numbers) if number in NUMBERS[name]])

    def by(self, *speakers: str) -> Self:
        """Return the recordings by these speakers."""
        return self._at([place for place, speaker in enumerate(self.speakers) if speaker in speakers])

    def _at(self, places: Sequence[int]) -> Self:
        columns = (self.signals, self.digits, self.speakers, self.numbers)
        return type(self)(*(tuple(column[place] for place in places) for column in columns))  # type: ignore[arg-type]

    def batches(self, rows: int) -> list[Batch]:
        """Return every recording as it is, in batches of similar length.

        Shapes: frames [rows, time, FRAME], the last of each filled with zeros; lengths [rows]; digits [rows].
        """
        order = np.argsort([len(signal) for signal in self.signals], kind="stable")
        return [self._batch(order[start : start + rows]) for start in range(0, len(order), rows)]

    def _batch(self, places: npt.NDArray[np.int64]) -> Batch:
        signals = [self.signals[place] for place in places]
        lengths = [frames_of(len(signal)) for signal in signals]
        steps = np.zeros((len(signals), max(lengths) * FRAME), np.float32)
        for row, signal in zip(steps, signals, strict=True):
            row[: len(signal)] = signal
        return _batch(steps, lengths, [self.digits[place] for place in places])

    def varied(self, rows: int, speed: float, seed: int) -> list[Batch]:
        """Return every recording as it might have sounded, in batches of equal length; `speed` is the largest change.

        Shapes: as `batches`; every row is as long as its batch.
        """
        rng = np.random.default_rng(seed)
        signals = [at_speed(signal, rng.uniform(1 - speed, 1 + speed)) for signal in self.signals]
        order = np.argsort([len(signal) + _pause(rng) for signal in signals])
        made = []
        for start in range(0, len(order), rows):
            places = order[start : start + rows]
            width = frames_of(max(len(signals[place]) for place in places) + _pause(rng))
            steps = np.stack([_heard(signals[place], width * FRAME, rng) for place in places])
            made.append(_batch(steps, [width] * len(places), [self.digits[place] for place in places]))
        return [made[place] for place in rng.permutation(len(made))]


def frames_of(samples: int) -> int:
    """Return how many frames hold so many samples."""
    return -(-samples // FRAME)


def at_speed(signal: Signal, speed: float) -> Signal:
    """Return the signal played at `speed` times its speed, its pitch and formants with it."""
    times = np.arange(int(len(signal) / speed)) * speed
    played: Signal = np.interp(times, np.arange(len(signal)), signal).astype(np.float32)
    return played


def _pause(rng: np.random.Generator) -> int:
    return int(rng.uniform(0, LONGEST_PAUSE)) if rng.random() < EITHER else 0


def _heard(signal: Signal, samples: int, rng: np.random.Generator) -> Signal:
    """Return the signal somewhere in a row of so many samples, with noise, at another loudness."""
    row = np.zeros(samples, np.float32)
    start = rng.integers(samples - len(signal) + 1)
    row[start : start + len(signal)] = signal
    if rng.random() < EITHER:
        loudness = np.sqrt(np.square(signal).mean()) * _amplitude(-rng.uniform(*NOISE_DB))
        row += loudness * rng.standard_normal(samples, np.float32)
    return (row * _amplitude(rng.uniform(*GAIN_DB))).clip(-1, 1).astype(np.float32)


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _batch(steps: Signal, lengths: Sequence[int], digits: Sequence[int]) -> Batch:
    frames = torch.from_numpy(steps).view(len(steps), -1, FRAME)
    return frames, torch.tensor(lengths, dtype=torch.int32), torch.tensor(digits)
