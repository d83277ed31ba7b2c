"""Training jobs: what every process of a run must know, and how one process does its part by Lightning.

It knows recipes and a run's folder, not who starts the processes. Invariant: random numbers depend on seed, epoch, step
and process alone, wherever the processes run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from training.fit.ddp import IgnoreHarmlessWarnings, SeedEveryStep, SharedData, accelerator
from training.fit.precision import settle
from training.recipe import Precision, Recipe

BEST, LAST, LOG, TENSORBOARD = "best.ckpt", "last.ckpt", "log", "tensorboard"


@dataclass(frozen=True)
class Job:
    """One run: its recipe, in the precision that it trains in, and its folder. With `resume` it goes on from there."""

    recipe: Recipe
    seed: int
    folder: Path
    resume: bool


@dataclass(frozen=True)
class Crew:
    """The processes that train: how many, what precision they can train in, and how they are set to work.

    `settle(asked)` is tried where they run. `train(job, module)` returns when the job is done, and its checkpoints and
    logs are in its folder on this machine; the module may be trained or not.
    """

    processes: int
    settle: Callable[[Precision], Precision]
    train: Callable[[Job, lightning.LightningModule], None]


class MovableCheckpoint(ModelCheckpoint):
    """A checkpoint that knows its best figure again where the run goes on in a folder of another name or machine."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})


def here(processes: int = 1) -> Crew:
    """Return processes of this machine, which Lightning starts; a single one is this process."""
    device = accelerator(processes)

    def train(job: Job, module: lightning.LightningModule) -> None:
        strategy = "ddp_spawn" if processes > 1 else "auto"
        environment = LightningEnvironment()  # a single process stays alone, whoever started it
        work(job, module, accelerator=device, devices=processes, strategy=strategy, plugins=[environment])

    return Crew(processes, partial(settle, device=device), train)


def prepare(job: Job) -> lightning.LightningModule:
    """Return the job's untrained module, the same in every process."""
    lightning.seed_everything(job.seed, verbose=False)
    return job.recipe.prepare(job.seed)


def work(job: Job, module: lightning.LightningModule, *, callbacks: Sequence[Callback] = (), **placement: Any) -> None:
    """Train `module` as one process of those that `placement`, arguments of Lightning's trainer, describes.

    The first process writes checkpoints, CSV and TensorBoard logs to the job's folder.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    run, folder = job.recipe.run, job.folder
    trainer = lightning.Trainer(
        **placement,
        max_epochs=run.epochs,
        use_distributed_sampler=False,  # `SharedData` divides each batch instead
        precision=run.precision,
        gradient_clip_val=run.gradient_norm,
        reload_dataloaders_every_n_epochs=1,  # a module draws or shuffles its data by epoch
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=[CSVLogger(folder, name=LOG), TensorBoardLogger(folder, name=TENSORBOARD)],
        callbacks=[
            IgnoreHarmlessWarnings(),
            SeedEveryStep(job.seed),
            EarlyStopping(run.monitor, mode=run.mode, patience=run.patience),
            MovableCheckpoint(folder, Path(BEST).stem, run.monitor, mode=run.mode, enable_version_counter=False),
            MovableCheckpoint(folder, Path(LAST).stem, enable_version_counter=False),  # after every epoch
            RichProgressBar(),
            *callbacks,
        ],
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        trainer.fit(module, datamodule=SharedData(module, job.seed), ckpt_path=folder / LAST if job.resume else None)
