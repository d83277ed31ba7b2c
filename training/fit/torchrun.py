"""Processes that torchrun started, on one host or several, as a crew: the first one leads, the others follow.

The first process alone decides, has the run's folder, and goes on to publish. It tells the others about each job, with
the checkpoint to go on from, so that hosts need no folder in common. It knows torchrun's environment, not Ray's.

Invariant: followers are in every job that the first process trains by this crew, and in nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed

from training.fit.ddp import accelerator
from training.fit.job import LAST, Crew, Job, prepare, work
from training.fit.precision import Device, settle
from training.recipe import Recipe, Run, Section

Told = tuple[Run, Section, int, bytes | None]  # the recipe's sections, the seed, and the checkpoint to go on from


def started() -> int | None:
    """Return how many processes torchrun started, on all hosts together; None where this one is not torchrun's."""
    return int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else None


def follows() -> bool:
    """Return whether this process is one of torchrun's, and not the first."""
    return TorchElasticEnvironment.detect() and int(os.environ["RANK"]) > 0


@contextmanager
def leading() -> Iterator[Crew]:
    """Yield the crew in its first process; afterwards the others end."""

    def train(job: Job, module: lightning.LightningModule) -> None:
        last = (job.folder / LAST).read_bytes() if job.resume else None
        _tell((job.recipe.run, job.recipe.settings, job.seed, last))
        work(job, module, **_placement())

    with _connected():
        yield Crew(int(os.environ["WORLD_SIZE"]), partial(settle, device=_device()), train)
        _tell(None)


def follow(recipe: Recipe) -> None:
    """Take part in each job of the first process, which trains a recipe of this kind, until it has no more."""
    with _connected():
        while told := _tell(None):
            run, settings, seed, last = told
            with TemporaryDirectory() as folder:
                if last is not None:
                    (Path(folder) / LAST).write_bytes(last)
                job = Job(replace(recipe, run=run, settings=settings), seed, Path(folder), resume=last is not None)
                work(job, prepare(job), **_placement())


@contextmanager
def _connected() -> Iterator[None]:
    distributed.init_process_group("cpu:gloo,cuda:nccl" if _device() == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()  # what comes then, as measuring, is the first process's alone


def _tell(told: Told | None) -> Told | None:
    """Return, in each process, what the first one gave."""
    box = [told]
    distributed.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def _device() -> Device:
    return accelerator(int(os.environ["LOCAL_WORLD_SIZE"]))


def _placement() -> dict[str, Any]:
    of_host, of_all = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return {
        "accelerator": _device(),
        "devices": of_host,
        "num_nodes": of_all // of_host,
        "strategy": "ddp" if of_all > 1 else "auto",
        "plugins": [TorchElasticEnvironment()],
    }
