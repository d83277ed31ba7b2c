"""SegRNN's windows, loss and Lightning module: what a batch is, what is minimised, what chooses the checkpoint.

It knows ETTh1's parts and the network, not files or publishing. One model answers all of the published horizons: its
loss, and the figure that chooses its checkpoint, is the mean of theirs.

Invariants: a training window holds no value beyond the training part, and a future that leaves its part counts only up
to there; errors are in standard deviations of the training part, as if every channel had been z-scored with it.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric

from training.fit.modules import SeededModule
from training.recipe import Section
from training.series.conformal import conformal_offsets
from training.series.data import ETT_TRAIN, ETT_VALIDATION, Values
from training.series.quantiles import pinball_loss
from training.tasks.segrnn.network import HORIZON, LEVELS, LOOKBACK, SegRNNNetwork

HORIZONS = (96, 192, 336, 720)  # those of the published table
QUANTILE_ROWS = 8  # windows of a batch that teach the quantiles: their layer is linear and needs no more
CALIBRATION_STRIDE = 8  # hours between the windows that calibrate; neighbours say nearly the same
Batch = tuple[Tensor, Tensor, Tensor]

FIGURES = ("val_mse", "val_mae", *(f"val_{kind}_{horizon}" for kind in ("mse", "mae") for horizon in HORIZONS))


class Settings(Section):
    """What a recipe says of the network and its training."""

    hidden: int = Field(ge=2)
    dropout: float = Field(ge=0, lt=1)
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    decay: float = Field(gt=0, le=1)
    swell: float = Field(ge=0)
    average: float = Field(ge=0, lt=1)


class Windows(Dataset[Batch]):
    """Windows of a series whose futures begin in one part of it; the histories may reach back before the part.

    Each item is a history [720, channels], its future [720, channels], zero where it leaves the part, and how many of
    its steps stand within the part: at least those of the shortest horizon.
    """

    def __init__(self, series: Values, part: slice, stride: int = 1) -> None:
        self.values = torch.from_numpy(series[: part.stop].astype(np.float32))
        self.starts = range(max(part.start, LOOKBACK), part.stop - HORIZONS[0] + 1, stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Batch:
        start = self.starts[index]
        known = self.values[start : start + HORIZON]
        future = functional.pad(known, (0, 0, 0, HORIZON - len(known)))
        return self.values[start - LOOKBACK : start], future, torch.tensor(len(known))


def step_weights(known: Tensor) -> Tensor:
    """Weigh the steps of futures so that their weighted sum averages, over the horizons, each horizon's mean.

    Shapes: known [batch], the steps that stand; returns [batch, 720], zero beyond them.
    """
    step = torch.arange(HORIZON, device=known.device)
    weights = sum((step < horizon).float() / horizon for horizon in HORIZONS) / len(HORIZONS)
    return weights * (step < known[:, None])


class SegRNNModule(SeededModule):
    """Train `SegRNNNetwork` on the training part of ETTh1; validate on its validation part by all horizons."""

    def __init__(self, ett: Values, settings: Settings, seed: int) -> None:
        """Take the series as a whole. Shapes: ett [time, channels]."""
        super().__init__(seed)
        self.ett, self.settings = ett, settings
        self.network = SegRNNNetwork(ett[ETT_TRAIN].std(axis=0).tolist(), settings.hidden, settings.dropout)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.average))  # type: ignore[no-untyped-call]
        self.average.requires_grad_(False)
        self.squared = nn.ModuleList(MeanSquaredError() for _ in HORIZONS)
        self.absolute = nn.ModuleList(MeanAbsoluteError() for _ in HORIZONS)

    def train_dataloader(self) -> DataLoader[Batch]:
        shuffle = torch.Generator().manual_seed(self.epoch_seed)
        windows = Windows(self.ett, ETT_TRAIN)
        return DataLoader(windows, batch_size=self.settings.batch, shuffle=True, generator=shuffle)

    def val_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(Windows(self.ett, ETT_VALIDATION), batch_size=self.settings.batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.network.parameters(), self.settings.learning_rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.settings.decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Minimise the Huber loss of the means; the quantiles are taught beside it and leave no mark on the rest."""
        history, actual, known = self.scaled(batch)
        weights = step_weights(known)
        swell = torch.exp(self.settings.swell * torch.randn_like(history[:, :1]))
        decoded = self.network.decoded(history * swell)
        mean = self.network.mean_of(decoded).float() / swell
        loss = (functional.huber_loss(mean, actual, reduction="none").mean(2) * weights).sum(1).mean()
        taught = slice(QUANTILE_ROWS)
        quantiles = self.network.quantiles_of(decoded[taught].detach()).float() / swell[taught, ..., None]
        missed = (pinball_loss(actual[taught], quantiles, LEVELS).mean(2) * weights[taught]).sum(1).mean()
        self.log_dict({"train_loss": loss, "train_pinball": missed}, prog_bar=True, batch_size=len(history))
        return loss + missed

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.average.update_parameters(self.network)

    @property
    def averaged(self) -> SegRNNNetwork:
        """The network with the averaged weights: what is validated, calibrated and published."""
        return cast(SegRNNNetwork, self.average.module)

    def validation_step(self, batch: Batch, index: int) -> None:
        history, actual, known = self.scaled(batch)
        mean = self.averaged.mean_of(self.averaged.decoded(history)).float()
        for horizon, squared, absolute in zip(HORIZONS, self.squared, self.absolute, strict=True):
            whole = known >= horizon
            squared(mean[whole, :horizon], actual[whole, :horizon])
            absolute(mean[whole, :horizon], actual[whole, :horizon])

    def on_validation_epoch_end(self) -> None:
        """Log every horizon's errors, and their means over the horizons."""
        for name, errors in (("val_mse", self.squared), ("val_mae", self.absolute)):
            values = [cast(Metric, error).compute() for error in errors]
            figures = {f"{name}_{horizon}": value for horizon, value in zip(HORIZONS, values, strict=True)}
            self.log_dict({**figures, name: torch.stack(values).mean()}, prog_bar=True, sync_dist=True)
            for error in errors:
                cast(Metric, error).reset()

    def scaled(self, batch: Batch) -> Batch:
        """Write a batch in standard deviations above each history's last value. Shapes: as the batch."""
        history, future, known = batch
        last = history[:, -1:]
        return (history - last) / self.network.scale, (future - last) / self.network.scale, known

    def offsets(self) -> tuple[float, ...]:
        """Return the conformal offsets that make the quantiles true on the validation part.

        Raises: ValueError where no offset does.
        """
        actual, quantiles = [], []
        with torch.no_grad():
            for batch in DataLoader(Windows(self.ett, ETT_VALIDATION, CALIBRATION_STRIDE), self.settings.batch):
                history, future, known = self.scaled(batch)
                stands = torch.arange(HORIZON) < known[:, None]
                actual.append(future[stands])
                quantiles.append(self.averaged.quantiles_of(self.averaged.decoded(history))[stands])
        return conformal_offsets(torch.cat(actual).double().numpy(), torch.cat(quantiles).double().numpy(), LEVELS)
