"""The live forecaster's loss and Lightning module: windows in consecutive chunks, the state carried on between them.

It knows the network, mixtures and Lightning, not files or publishing. Each epoch draws fresh windows by seed and epoch
number, so that a resumed run sees what an uninterrupted one would have seen.

Invariant: the loss is free of the series' unit, and a value beyond a row's length never enters it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.fit.state_penalty import PENALTY_WEIGHT, state_penalty
from training.series.data import Mixture
from training.series.quantiles import pinball_loss
from training.tasks.forecast_live.calibration import HeldOut
from training.tasks.forecast_live.network import LiveNetwork
from training.tasks.forecaster import ForecasterModule, WindowSettings

ROWS = 64  # per batch
CHUNK = 128  # observations between two steps of the optimiser
WIDTH = 1536  # observations of a window: twelve chunks, six times the longest span of the running scale
OUTLYING = 10.0  # units beyond which a step's loss counts less than in proportion
GLITCHED = 0.25  # share of the windows that glitches are put into
GLITCH_EVERY = 400  # observations of a window with glitches, on average
GLITCH_DECADES = 1.0, 6.0  # sizes of glitches, evenly in the logarithm: powers of ten, in units


class Chunks(Dataset[tuple[Tensor, ...]]):
    """Windows cut into consecutive chunks, `ROWS` windows at a time, for training with carried state.

    Each item is a batch: observations [rows, CHUNK], those that follow them, 1 where a following observation is real
    and is to be foreseen, each row's unit [rows], and whether the chunk is the first of its windows.
    """

    def __init__(self, values: Tensor, lengths: Tensor, glitches: Tensor | None = None) -> None:
        """Take windows, and glitches to add to them. Neither a glitch nor the step back from it is to be foreseen.

        Shapes: values [windows, time]; lengths [windows]; glitches, in units, as values.
        """
        self.units = step_units(values, lengths)
        self.real = (torch.arange(values.shape[1]) < lengths[:, None]).float()
        self.values = values
        if glitches is not None:
            self.values = values + glitches * self.units[:, None]
            spoilt = glitches != 0
            spoilt[:, 1:] |= spoilt[:, :-1].clone()
            self.real[spoilt] = 0
        self.per_window = math.ceil((values.shape[1] - 1) / CHUNK)

    def __len__(self) -> int:
        return math.ceil(len(self.values) / ROWS) * self.per_window

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= len(self):
            raise IndexError(index)
        group, chunk = divmod(index, self.per_window)
        rows, start = slice(group * ROWS, (group + 1) * ROWS), chunk * CHUNK
        now, after = slice(start, start + CHUNK), slice(start + 1, start + CHUNK + 1)
        values, real = self.values[rows], self.real[rows, after]
        return values[:, now], values[:, after], real, self.units[rows], torch.tensor(chunk == 0)


def draw_glitches(seed: int, shape: torch.Size) -> Tensor:
    """Draw glitches, one observation long, for some windows of a batch, and zeros elsewhere; in units.

    Shapes: shape [windows, time], and the same is returned.
    """
    drawn = torch.Generator().manual_seed(seed)
    there = torch.rand(shape, generator=drawn) < 1 / GLITCH_EVERY
    there &= torch.rand(len(there), 1, generator=drawn) < GLITCHED
    least, most = GLITCH_DECADES
    size = 10 ** (least + (most - least) * torch.rand(shape, generator=drawn))
    sign = torch.randint(2, shape, generator=drawn) * 2 - 1
    return there * sign * size


def step_units(values: Tensor, lengths: Tensor) -> Tensor:
    """Return each row's mean absolute step, or 1 where nothing moves.

    Shapes: values [rows, time]; lengths [rows]; returns [rows].
    """
    counted = torch.arange(1, values.shape[1]) < lengths[:, None]
    unit = (values.diff(dim=1).abs() * counted).sum(1) / counted.sum(1).clamp(min=1)
    return torch.where(unit > 0, unit, torch.ones_like(unit))


def next_loss(after: Tensor, real: Tensor, unit: Tensor, quantiles: Tensor) -> Tensor:
    """Average the pinball loss of the next observations, its excess over `OUTLYING` units counted by its logarithm.

    Shapes: after and real [rows, time]; unit [rows]; quantiles [rows, time, 13].
    Units: the rows' own.
    """
    loss = pinball_loss(after, quantiles) / unit[:, None]
    loss = torch.where(loss > OUTLYING, OUTLYING * (1 + torch.log(loss.clamp(min=OUTLYING) / OUTLYING)), loss)
    return (loss * real).sum() / real.sum().clamp(min=1)


class LiveModule(ForecasterModule):
    """Train `LiveNetwork` by truncated backpropagation: state goes on from chunk to chunk, gradients do not."""

    def __init__(
        self,
        settings: WindowSettings,
        network: LiveNetwork,
        mixture: Mixture,
        held_out: Chunks,
        calibration: HeldOut,
        seed: int,
    ) -> None:
        """Validate on the streams of `held_out`; `calibration` is for the finished network."""
        super().__init__(settings, mixture, seed)
        self.network, self.held_out, self.calibration = network, held_out, calibration
        self.carried: tuple[Tensor, ...] = ()

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        values, lengths = self.draw(WIDTH)
        return DataLoader(Chunks(values, lengths, draw_glitches(self.epoch_seed, values.shape)), batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, batch_size=None)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss + PENALTY_WEIGHT * state_penalty(self.carried[-len(self.network.recurrent.states) :])

    def validation_step(self, batch: tuple[Tensor, ...], index: int) -> None:
        loss = self._loss(batch)
        self.log("val_loss", loss, prog_bar=True, batch_size=len(batch[0]))

    def _loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        values, after, real, unit, first = batch
        if first:
            window, count, _, _, *recurrent = self.network.zero_states(len(values))
            self.carried = (window, count, *recurrent)
        lengths = torch.full((len(values),), values.shape[1], dtype=torch.int32, device=values.device)
        carried = (state.detach() for state in self.carried)
        _, away, self.carried = self.network.predict(values, lengths, *carried)
        time = after.shape[1]
        return next_loss(after, real, unit, values[:, :time, None] + away[:, :time])
