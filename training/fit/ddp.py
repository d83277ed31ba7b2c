"""Distributed data parallel training: each process takes its rows of every batch and draws its own random numbers.

Every process makes the same batches and trains on every n-th row, so that n processes take the same steps as a single
process. Each process validates on all rows, so all have the same figure as a single process: a mean over unequal shares
would differ. It knows Lightning's hooks, not tasks or recipes.

Invariant: no two processes train on the same row, except that a batch with fewer rows than processes goes whole to
each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from training.fit.precision import Device

HARMLESS_WARNINGS = (
    "does not have many workers",  # the data is in memory; worker processes would only copy it
    "Checkpoint directory .* exists and is not empty",  # a resumed run finds its own checkpoints
    r"isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 uses PyTorch 2.13 in a way that PyTorch deprecates
    "sync_dist=True",  # validation is whole in each process
)
STEP_STRIDE, RANK_STRIDE = 1_000_003, 999_999_937  # primes, so that seeds, steps and processes seldom meet


class IgnoreHarmlessWarnings(Callback):
    """Leave out the warnings that mean nothing here; a callback, because a started process has Python's own filters."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for harmless in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", f".*{harmless}")


class SeedEveryStep(Callback):
    """Seed the random numbers of each step by seed, step and process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(STEP_STRIDE * self.seed + trainer.global_step + RANK_STRIDE * trainer.global_rank)


class SharedData(lightning.LightningDataModule):
    """A module's own loaders, the training loader's batches divided among the processes."""

    def __init__(self, module: lightning.LightningModule, seed: int) -> None:
        super().__init__()
        self.module, self.seed = module, seed

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        seed = STEP_STRIDE * self.seed + self.module.current_epoch
        return Shares(self.module.train_dataloader(), seed, self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        return self.module.val_dataloader()


class Shares:
    """One process's rows of a loader's batches; every pass shuffles by `seed`, the same way in every process."""

    def __init__(self, loader: Any, seed: int, rank: int, processes: int) -> None:
        self.loader, self.seed, self.rank, self.processes = loader, seed, rank, processes

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        torch.manual_seed(self.seed)  # a loader that shuffles begins with a random number
        for batch in self.loader:
            yield apply_to_collection(batch, Tensor, share, self.rank, self.processes)


def share(tensor: Tensor, rank: int, processes: int) -> Tensor:
    """Return the rows that process `rank` of `processes` takes; a tensor without axes is returned as it is.

    Shapes: tensor [rows, ...]; returns [fewer rows, ...].
    """
    return tensor if tensor.ndim == 0 or len(tensor) < processes else tensor[rank::processes]


def accelerator(processes: int) -> Device:
    """Return what to train on: one GPU a process where there are as many, else the processor."""
    return "cuda" if processes <= torch.cuda.device_count() else "cpu"
