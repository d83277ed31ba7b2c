"""What one of several training processes does: it takes its rows of every batch and draws its own random numbers.

Every process makes the same batches and keeps every n-th row, so that n processes take the steps that one would. It
knows Lightning's hooks, not tasks or recipes. Invariant: a row is one process's alone, except in a batch that has fewer
rows than there are processes: such a batch goes whole to each.
"""

from __future__ import annotations

import warnings
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

HARMLESS_WARNINGS = (
    "does not have many workers",  # the data is in memory; worker processes would only copy it
    "Checkpoint directory .* exists and is not empty",  # a resumed run finds its own checkpoints
    r"isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 uses PyTorch 2.13 in a way that PyTorch deprecates
)
UNSYNCHRONISED = r".*sync_dist=True"  # a figure of one process's rows would choose the checkpoint
STEP_STRIDE, RANK_STRIDE = 1_000_003, 999_999_937  # primes: seeds of other runs, steps and processes are far apart


class SetWarnings(Callback):
    """Leave out the warnings that mean nothing here; make an error of a figure that is not synchronised.

    A callback, because a started process begins with Python's own filters.
    """

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for harmless in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", f".*{harmless}")
        warnings.filterwarnings("error", UNSYNCHRONISED)


class SeedEveryStep(Callback):
    """Seed the random numbers of each step by seed, step and process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(STEP_STRIDE * self.seed + trainer.global_step + RANK_STRIDE * trainer.global_rank)


class Shares(lightning.LightningDataModule):
    """A module's own loaders, of each batch this process's rows: of every tensor with axes, along the first."""

    def __init__(self, module: lightning.LightningModule) -> None:
        super().__init__()
        self.module = module

    def train_dataloader(self) -> Any:
        return self.module.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.module.val_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        return apply_to_collection(batch, Tensor, share, self.trainer.global_rank, self.trainer.world_size)


def share(tensor: Tensor, rank: int, processes: int) -> Tensor:
    """Return the rows that process `rank` of `processes` takes.

    Shapes: tensor [rows, ...]; returns [fewer rows, ...]. A tensor without axes is returned as it is.
    """
    return tensor if tensor.ndim == 0 or len(tensor) < processes else tensor[rank::processes]


def accelerator(processes: int) -> str:
    """Return Lightning's name for what to train on: one GPU a process where there are as many, else the processor."""
    return "auto" if processes <= max(1, torch.cuda.device_count()) else "cpu"
