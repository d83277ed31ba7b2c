"""Training runs: Lightning fits a recipe's module, keeps its best checkpoint, and goes on after an interruption.

It knows recipes and `runs/<name>/`, not tasks or publishing. Invariant: random numbers depend on seed, epoch and step
alone, so a run that was interrupted and resumed ends where an uninterrupted one would have.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger

from service.errors import StartupError
from training.recipe import Recipe

GRADIENT_NORM = 1.0
HARMLESS_WARNINGS = (
    "does not have many workers",  # the data is in memory; worker processes would only copy it
    "Checkpoint directory .* exists and is not empty",  # a resumed run finds its own checkpoints
    "is smaller than the logging interval",  # a run of few batches logs by epoch alone
    r"isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 uses PyTorch 2.13 in a way that PyTorch deprecates
)
BEST, LAST = "best.ckpt", "last.ckpt"


class ResumeError(StartupError):
    """There is no interrupted run to go on with."""


class SeedEveryStep(Callback):
    """Seed the random numbers of each step by seed and step."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(1_000_003 * self.seed + trainer.global_step)


def fit(recipe: Recipe, *, seed: int, epochs: int, resume: bool, runs_dir: Path) -> lightning.LightningModule:
    """Train and return the module with the weights of its best checkpoint.

    Checkpoints and a CSV log of every figure go to `runs_dir/<name>/`; without `resume` an earlier run there is
    replaced.

    Raises: ResumeError when `resume` finds no checkpoint.
    """
    folder = runs_dir / recipe.name
    if resume and not (folder / LAST).is_file():
        raise ResumeError(f"{folder} holds no {LAST} to resume; train without --resume")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(seed, verbose=False)
    module = recipe.prepare(seed, epochs)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        gradient_clip_val=GRADIENT_NORM,
        reload_dataloaders_every_n_epochs=1,  # a module draws or shuffles its data by epoch
        num_sanity_val_steps=0,
        logger=CSVLogger(folder, name="log"),
        callbacks=[
            SeedEveryStep(seed),
            ModelCheckpoint(folder, Path(BEST).stem, recipe.monitor, mode=recipe.mode, save_last=True),
            EarlyStopping(recipe.monitor, mode=recipe.mode, patience=recipe.patience),
            RichProgressBar(),
        ],
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        for harmless in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", f".*{harmless}")
        trainer.fit(module, ckpt_path=folder / LAST if resume else None)
    best = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(best["state_dict"])
    return module.cpu().eval()
