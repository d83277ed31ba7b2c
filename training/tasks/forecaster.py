"""What the forecasters' recipes and modules share: windows that are drawn anew every epoch, and the learning rate.

It knows mixtures of series and Lightning, not networks. Invariant: the shares of windows are parts of one whole.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from training.fit.modules import SeededModule
from training.recipe import Section
from training.series.data import Mixture

WARM_UP = 0.05  # of the run, to the highest learning rate
WEIGHT_DECAY = 0.01


class WindowSettings(Section):
    """What the recipes of both forecasters set.

    Units: `windows` an epoch, of which the `_share`s come from real series and the rest from synthetic ones;
    `learning_rate` the highest of the one-cycle schedule.
    """

    windows: int = Field(ge=1)
    weekly_share: float = Field(ge=0, le=1)
    hidden: int = Field(ge=1)
    layers: int = Field(ge=1)
    learning_rate: float = Field(gt=0)

    @model_validator(mode="after")
    def _parts_of_one_whole(self) -> Self:
        shares = {name: value for name, value in self if name.endswith("_share")}
        if (total := sum(shares.values())) > 1:
            raise ValueError(f"{' and '.join(shares)} add up to {total:g}; they are shares of one whole")
        return self


class ForecasterModule(SeededModule):
    """What both forecasters share: AdamW under a one-cycle learning rate, fresh windows every epoch."""

    def __init__(self, settings: WindowSettings, mixture: Mixture, seed: int) -> None:
        """Draw windows from `mixture` as the settings say."""
        super().__init__(seed)
        self.mixture, self.windows, self.learning_rate = mixture, settings.windows, settings.learning_rate

    def draw(self, width: int) -> tuple[Tensor, Tensor]:
        """Draw the current epoch's windows."""
        return self.mixture.draw(self.epoch_seed, self.windows, width)

    def configure_optimizers(self) -> Any:
        return self.one_cycle(self.learning_rate, weight_decay=WEIGHT_DECAY, warm_up=WARM_UP)
