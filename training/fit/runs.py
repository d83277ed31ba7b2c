"""Training runs: a crew trains a recipe's module, the best checkpoint is kept, and a run goes on after an interruption.

It knows recipes and `runs/<name>/seed-<n>/`, not tasks, publishing, or where processes run. Invariant: a run that was
interrupted and resumed ends where an uninterrupted one would have, also where other machines resume it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch

from service.errors import StartupError
from training.fit.job import BEST, LAST, Crew, Job, here, prepare
from training.recipe import Recipe, Run

RUNS_DIR = Path("runs")  # unless another is asked for
RECIPE = "recipe.json"


class ResumeError(StartupError):
    """There is no run to go on with, or it was begun by another recipe."""


@dataclass(frozen=True)
class Trained:
    """What a finished run gives: the module with its best checkpoint's weights, and the figure that chose it."""

    seed: int
    module: lightning.LightningModule
    figure: float
    folder: Path


def fit_seeds(
    recipe: Recipe, seeds: Sequence[int], *, resume: bool, runs_dir: Path, crew: Crew | None = None
) -> list[Trained]:
    """Train with each seed, one after the other. With `resume`, seeds without a checkpoint begin anew.

    Raises: ResumeError when `resume` finds no checkpoint of any seed, or one of another recipe.
    """
    begun = [seed for seed in seeds if (run_folder(runs_dir, recipe.name, seed) / LAST).is_file()]
    if resume and not begun:
        folders = ", ".join(str(run_folder(runs_dir, recipe.name, seed)) for seed in seeds)
        raise ResumeError(f"no {LAST} to resume in {folders}; train without --resume")
    return [fit(recipe, seed=seed, resume=resume and seed in begun, runs_dir=runs_dir, crew=crew) for seed in seeds]


def best_of(recipe: Recipe, trained: Sequence[Trained]) -> Trained:
    """Return the run with the best validation figure, the first of equals."""
    choose = max if recipe.run.mode == "max" else min
    return choose(trained, key=lambda run: run.figure)


def run_folder(runs_dir: Path, name: str, seed: int) -> Path:
    """Return where the run of one seed keeps its checkpoints and logs."""
    return runs_dir / name / f"seed-{seed}"


def fit(recipe: Recipe, *, seed: int, resume: bool, runs_dir: Path, crew: Crew | None = None) -> Trained:
    """Train by `crew`, or else by this process, and return the module with the weights of its best checkpoint.

    Checkpoints, CSV and TensorBoard logs go to `runs_dir/<name>/seed-<seed>/`; without `resume` an earlier run there is
    replaced. A run that is finished is not trained again.

    The run trains in the recipe's precision where the crew can, else in float32, and the log says so.

    Raises: ResumeError when `resume` finds no checkpoint, or one of another recipe or precision.
    """
    crew = crew or here()
    recipe = replace(recipe, run=recipe.run.model_copy(update={"precision": crew.settle(recipe.run.precision)}))
    folder = run_folder(runs_dir, recipe.name, seed)
    if resume:
        _check_begun(recipe, crew.processes, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / RECIPE).write_text(json.dumps(_facts(recipe, crew.processes), indent=2) + "\n")
    job = Job(recipe, seed, folder, resume)
    module = prepare(job)
    if not (resume and _finished(folder, recipe.run)):
        crew.train(job, module)
    best = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(best["state_dict"])
    (figure,) = (part["best_model_score"] for part in best["callbacks"].values() if part.get("monitor"))
    return Trained(seed, module.cpu().eval(), float(figure), folder)


def _facts(recipe: Recipe, processes: int) -> dict[str, Any]:
    """Return everything but the seed that the weights depend on, as JSON holds it."""
    facts: dict[str, Any] = {"processes": processes}
    for name, table in (("run", recipe.run), ("settings", recipe.settings)):
        facts |= {f"{name}.{key}": value for key, value in table.model_dump(mode="json").items()}
    return facts


def _check_begun(recipe: Recipe, processes: int, folder: Path) -> None:
    if not all((folder / name).is_file() for name in (LAST, RECIPE)):
        raise ResumeError(f"{folder} holds no {LAST} with its {RECIPE} to resume; train without --resume")
    begun, now = json.loads((folder / RECIPE).read_text()), _facts(recipe, processes)
    if begun != now:
        changed = [key for key in {**begun, **now} if begun.get(key) != now.get(key)]
        told = ", ".join(f"{key} was {begun.get(key)!r} and is now {now.get(key)!r}" for key in changed)
        raise ResumeError(f"{folder} was begun otherwise: {told}; resume as it was begun, or train without --resume")


def _finished(folder: Path, run: Run) -> bool:
    """Return whether the run saw its last epoch, or ended early."""
    last = torch.load(folder / LAST, map_location="cpu", weights_only=True)
    return last["epoch"] + 1 >= run.epochs or any(part.get("stopped_epoch") for part in last["callbacks"].values())
