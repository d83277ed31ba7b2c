"""What the modules that recipes train share: random numbers by seed and epoch, one cycle of the rate, averaged weights.

It knows Lightning, no task. Invariant: what an epoch draws depends on seed and epoch number alone, so that a resumed
run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging

EPOCH_STRIDE = 1_000_003  # a prime, so that seeds and epochs seldom meet
AVERAGE_EVERY = 4  # steps; averaging at each one costs a tenth of the time and changes nothing


class SeededModule(lightning.LightningModule):
    """A module that draws its data anew every epoch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    @property
    def epoch_seed(self) -> int:
        """Return what the current epoch draws its data with."""
        return EPOCH_STRIDE * self.seed + self.current_epoch

    def one_cycle(self, rate: float, *, weight_decay: float, warm_up: float) -> Any:
        """Return AdamW under a one-cycle learning rate that reaches `rate` after the share `warm_up` of the run.

        Source: Smith and Topin, Super-Convergence, 2018; Loshchilov and Hutter, ICLR 2019.
        """
        trained = [weight for weight in self.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, weight_decay=weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def running_mean(self, averaging: float) -> list[Callback]:
        """Return what keeps a running mean of the weights, which is what is validated and kept. Units: per step."""
        decay = averaging**AVERAGE_EVERY
        return [EMAWeightAveraging(decay=decay, update_every_n_steps=AVERAGE_EVERY, use_buffers=False)]
