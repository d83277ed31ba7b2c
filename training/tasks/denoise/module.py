"""The denoisers' training: windows of records in noise, drawn anew every epoch, and the output ratio as the loss.

It knows signals, the network and Lightning, not files or publishing. Each epoch draws its windows by seed and epoch
number, so that a resumed run sees what an uninterrupted one would have seen.

Invariant: what is trained for, a stream's penalty aside, and what chooses the checkpoint is the same figure, the mean
output ratio of windows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from training.fit.modules import SeededModule
from training.fit.state_penalty import state_penalty
from training.recipe import Section
from training.tasks.denoise.data import MINUTE, RATE, Signals, Values, cases, signal_power
from training.tasks.denoise.network import DenoiseNetwork

DB = 10.0  # in a factor of ten
WARM_UP = 0.05  # of the run, to the highest learning rate
STATE_WEIGHT = 40.0  # of the penalty on large states: with less, rounding is beyond the parity suite's bound
VALIDATED_ROWS = 12
RATIO_RANGE = -2.0, 20.0  # dB, drawn evenly
MIXED = 0.25  # share of the windows in which all kinds of noise are mixed, the others have one kind
SWELL = 0.3  # spread of the logarithm of the factor that a window is multiplied by
TURNED = 0.15  # share of the windows that are turned upside down, as by leads the wrong way round
PACED = 0.5  # share of the windows that are played faster or slower
PACES = 0.85, 1.2


class Settings(Section):
    """What a recipe of this kind sets.

    Units: `frame` samples a step; `windows` an epoch of `seconds` each, `rows` of them between two steps of the
    optimiser; `learning_rate` the highest of the one-cycle schedule.
    """

    frame: int = Field(ge=1)
    bidirectional: bool
    features: int = Field(ge=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    windows: int = Field(ge=1)
    seconds: int = Field(ge=1)
    rows: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class Drawing:
    """Windows of a part's records in noise, drawn at random.

    The noise is scaled by the powers of the whole record and of all the part's noise, not of the window's own, so that
    quiet and loud stretches are met as in the cases that are measured.
    """

    def __init__(self, signals: Signals, samples: int) -> None:
        self.records = [(record, signal_power(record)) for record in signals.records.values()]
        self.noise, self.samples = list(signals.noise.values()), samples

    def draw(self, rng: np.random.Generator) -> tuple[Values, Values]:
        """Draw a window, noisy and clean. Shapes: both [samples]. Units: millivolts."""
        record, power = self.records[rng.integers(len(self.records))]
        clean = self._paced(rng, record) if rng.random() < PACED else self._stretch(rng, record)
        shares = np.eye(len(self.noise))[rng.integers(len(self.noise))]
        if rng.random() < MIXED:
            shares = np.sqrt(rng.dirichlet(np.ones(len(self.noise))))
        signs = rng.choice((-1, 1), len(self.noise))
        noise = sum(
            size * self._stretch(rng, kind) for size, kind in zip(shares * signs, self.noise, strict=True) if size
        )
        swell = np.exp(SWELL * rng.normal()) * rng.choice((-1, 1), p=(TURNED, 1 - TURNED))
        noisy = clean + noise * np.sqrt(power / 10 ** (rng.uniform(*RATIO_RANGE) / 10))
        return swell * noisy, swell * clean

    def _stretch(self, rng: np.random.Generator, whole: Values) -> Values:
        begin = rng.integers(len(whole) - self.samples + 1)
        return whole[begin : begin + self.samples]

    def _paced(self, rng: np.random.Generator, record: Values) -> Values:
        """Draw a stretch, slower or faster than it was."""
        pace = rng.uniform(*PACES)
        begin = rng.integers(len(record) - int(self.samples * pace) - 1)
        paced: Values = np.interp(begin + pace * np.arange(self.samples), np.arange(len(record)), record)
        return paced

    def windows(self, seed: int, count: int, frame: int) -> TensorDataset:
        """Draw `count` windows. Shapes: noisy and clean, each [count, time, frame]."""
        rng = np.random.default_rng(seed)
        drawn = [np.stack(self.draw(rng)) for _ in range(count)]
        return framed(drawn, frame)


def framed(pairs: list[Values], frame: int) -> TensorDataset:
    """Cut pairs of a noisy and a clean signal into frames. Shapes: pairs [2, samples]; items [time, frame]."""
    cut = np.stack(pairs, 1).astype(np.float32).reshape(2, len(pairs), -1, frame)
    return TensorDataset(*torch.from_numpy(cut))


class DenoiseModule(SeededModule):
    """Train `DenoiseNetwork` on drawn windows; validate on the validation part's cases, a minute each."""

    def __init__(self, settings: Settings, train: Signals, validation: Signals, seed: int) -> None:
        super().__init__(seed)
        self.settings = settings
        self.network = DenoiseNetwork(
            settings.frame, settings.features, settings.hidden, settings.layers, settings.bidirectional
        )
        self.drawing = Drawing(train, settings.seconds * RATE)
        self.held_out = framed(
            [np.stack([case.noisy, case.clean]) for case in cases(validation, MINUTE)], settings.frame
        )

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        windows = self.drawing.windows(self.epoch_seed, self.settings.windows, self.settings.frame)
        return DataLoader(windows, batch_size=self.settings.rows)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, batch_size=VALIDATED_ROWS)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        ratio, states = self._ratio(batch)
        self.log("train_ratio", ratio, prog_bar=True, batch_size=len(batch[0]))
        loss = -ratio / DB
        return loss + STATE_WEIGHT * state_penalty(states) if states else loss

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        ratio, _ = self._ratio(batch)
        self.log("val_ratio", ratio, prog_bar=True, batch_size=len(batch[0]))

    def _ratio(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean output ratio of a batch, in dB, and the LSTM's states after it, of a stream."""
        noisy, clean = batch
        lengths = torch.full((len(noisy),), noisy.shape[1], dtype=torch.int32, device=noisy.device)
        answer, *states = self.network(noisy, lengths)
        power, missed = clean.square().sum((1, 2)), (clean - answer).square().sum((1, 2))
        return DB * torch.log10(power / missed).mean(), tuple(states[2:])

    def configure_optimizers(self) -> Any:
        return self.one_cycle(self.settings.learning_rate, weight_decay=self.settings.weight_decay, warm_up=WARM_UP)
