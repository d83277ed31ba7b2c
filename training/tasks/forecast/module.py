"""The forecaster's loss and Lightning module: what a batch is, what is minimised, how the learning rate runs.

It knows networks, mixtures and Lightning, not files or publishing. Each epoch draws fresh windows by seed and epoch
number, so that a resumed run sees what an uninterrupted one would have seen.

Invariant: a loss is free of the series' unit, and a value beyond a row's length never enters it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from training.series.conformal import conformal_offsets
from training.series.data import Mixture, Values, pad
from training.series.quantiles import LEVELS, pinball_loss
from training.tasks.forecast.network import HORIZON, MAX_HISTORY, MIN_HISTORY, SEGMENT, ForecastNetwork, segments
from training.tasks.forecaster import ForecasterModule, WindowSettings

ROWS = 32  # per batch
ANCHORS = 12  # per window and step
OUTLYING = 10.0  # scales beyond which a window's loss counts less than in proportion
LEAST_SPREAD = 0.03  # in scales: below it a series counts as exact, and its loss no more
EARLY = 1.5  # power that brings anchors towards the beginning: users have short histories


def future_loss(future: Tensor, known: Tensor, scaled: Tensor, level: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    """Average the scaled pinball loss over what is known of each anchor's future.

    An anchor whose future lies many scales away, as after a history that hardly moved, weighs less. An anchor whose
    history repeats itself closely weighs more: otherwise its small errors would teach nothing.

    Shapes: future and known (1 where a value stands) [batch, anchors, 48]; the rest as `ForecastNetwork.at` returns.
    Units: scales.
    """
    actual = (future - level[..., None]) / scale[..., None]
    distance = (actual.abs() * known).sum(2) / known.sum(2).clamp(min=1)
    exactness = spread.detach().clamp(LEAST_SPREAD, 1).rsqrt()
    weight = known * (exactness / (1 + distance / OUTLYING))[..., None]
    return (pinball_loss(actual, scaled) * weight).sum() / known.sum().clamp(min=1)


def draw_anchors(lengths: Tensor) -> Tensor:
    """Draw segments to forecast from, with at least one more segment behind them where the row has two.

    Shapes: lengths [batch]; returns [batch, ANCHORS] int64.
    """
    count = (segments(lengths.long()) - 1).clamp(min=1)[:, None]
    return (torch.rand(len(lengths), ANCHORS, device=lengths.device) ** EARLY * count).long()


def futures(values: Tensor, lengths: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Look up what follows each anchor, and where it is known; after less than `MIN_HISTORY` values nothing is.

    Shapes: values [batch, time]; lengths [batch]; anchors [batch, anchors]; returns two of [batch, anchors, 48].
    """
    length = lengths.long()[:, None]
    history = length - (segments(length) - 1 - anchors) * SEGMENT
    place = history[..., None] + torch.arange(HORIZON, device=values.device)
    known = (place < length[..., None]) & (history >= MIN_HISTORY)[..., None]
    future = values.gather(1, torch.minimum(place, length[..., None] - 1).flatten(1)).view(place.shape)
    return future, known.float()


class ForecastModule(ForecasterModule):
    """Train `ForecastNetwork` on many anchors of each window; validate on futures held out."""

    def __init__(
        self,
        settings: WindowSettings,
        network: ForecastNetwork,
        mixture: Mixture,
        held_out: TensorDataset,
        calibration: TensorDataset,
        seed: int,
    ) -> None:
        """Validate on `held_out`, and keep `calibration` for `offsets`, both as `held_out_futures` makes them."""
        super().__init__(settings, mixture, seed)
        self.network, self.held_out, self.calibration = network, held_out, calibration

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*self.draw(MAX_HISTORY + HORIZON)), batch_size=ROWS)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, batch_size=ROWS)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        values, lengths = batch
        anchors = draw_anchors(lengths)
        loss = future_loss(*futures(values, lengths, anchors), *self.network.at(values, lengths, anchors))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(values))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], index: int) -> None:
        values, lengths, future, known = batch
        last = segments(lengths.long())[:, None] - 1
        loss = future_loss(future[:, None], known[:, None], *self.network.at(values, lengths, last))
        self.log("val_loss", loss, prog_bar=True, batch_size=len(values))

    @torch.no_grad()
    def offsets(self) -> tuple[float, ...]:
        """Return the conformal offsets of the trained network, from the futures kept for calibration."""
        values, lengths, future, known = self.calibration.tensors
        self.network.eval()
        last = segments(lengths.long())[:, None] - 1
        scaled, level, scale, _ = self.network.at(values, lengths, last)
        actual = (future - level) / scale
        there = known > 0
        return conformal_offsets(actual[there].double().numpy(), scaled[:, 0][there].double().numpy(), LEVELS)


def held_out_futures(rows: list[tuple[Values, Values]]) -> TensorDataset:
    """Stack histories and the futures that training does not see.

    Shapes: rows a list of a history [time] and its future [up to 48], NaN where it is not to be known.
    """
    values, lengths = pad([history[-MAX_HISTORY:] for history, _ in rows])
    future, known = torch.zeros(len(rows), HORIZON), torch.zeros(len(rows), HORIZON)
    for place, (_, after) in enumerate(rows):
        missing = np.isnan(after)
        future[place, : len(after)] = torch.from_numpy(np.where(missing, 0.0, after))
        known[place, : len(after)] = torch.from_numpy(~missing)
    return TensorDataset(values, lengths, future, known)
