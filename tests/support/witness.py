"""The train command with an echo that writes down what each process did; a program, too, for others to start.

`python witness.py FOLDER OPTIONS` trains the recipe of `recipe` and leaves in FOLDER what `train` does.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import echo
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from training import catalogue, cli
from training.fit import runs
from training.fit.job import LAST, here
from training.publish import model_directory
from training.recipe import Kind, Recipe

EPOCHS, BATCHES = 2, 5


class Interrupted(Exception):
    """As when the machine goes down."""


class Witness(echo.Echo):
    """An echo that writes down what each process saw, drew and had learned at the end; its last batch is one row.

    `kept` are the epochs of seed 0's last checkpoint, as it stands in the folder of who asked when an epoch begins.
    """

    rows = 33

    def __init__(self, folder: Path, last_step: int | None = None) -> None:
        super().__init__(seed=0, dropout=0.0)
        self.folder, self.last_step = folder, last_step
        self.seen: list[Tensor] = []
        self.kept: list[int] = []
        self.drawn: list[float] = []

    def on_train_epoch_start(self) -> None:
        last = runs.run_folder(self.folder / "runs", echo.MODEL, 0) / LAST
        self.kept.append(torch.load(last)["epoch"] if last.is_file() else -1)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == self.last_step:
            raise Interrupted
        self.seen.append(batch[0])
        self.drawn.append(torch.rand(1).item())
        return super().training_step(batch, index)

    def on_fit_end(self) -> None:
        wrote_to = self.trainer.log_dir  # the first process's, in every process
        left = {"seen": self.seen, "drawn": self.drawn, "kept": self.kept, "wrote_to": wrote_to}
        torch.save({**left, "weights": self.state_dict()}, self.folder / f"rank-{self.global_rank}.pt")


def kind(folder: Path, last_step: int | None = None) -> Kind[echo.Settings]:
    """The echo's kind, whose modules leave in `folder` what they saw, and end at `last_step`."""
    return dataclasses.replace(
        echo.KIND,
        prepare=lambda settings, seed: Witness(folder, last_step),
        release=lambda name, settings, module: echo.release(module, name, measure=lambda url: ()),
    )


def arguments(folder: Path, *options: str) -> list[str]:
    """The command that trains the echo into `folder`."""
    recipe = folder / f"{echo.MODEL}.toml"
    recipe.write_text(echo.FILE)
    return ["train", str(recipe), "--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs"), *options]


def train(folder: Path, *options: str) -> Any:
    """Train and publish a witness by the command, in this process; return its result."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_directory, "serving", echo.no_server)
        patch.setitem(catalogue.KINDS, "echo", kind(folder))
        return CliRunner().invoke(cli.app, arguments(folder, *options))


def begin(folder: Path, epochs: int, processes: int) -> None:
    """Train for an epoch and a half, with seed 0; one process stands for all, which learn the same but for rounding."""
    crew = dataclasses.replace(here(), processes=processes)
    with pytest.raises(Interrupted):
        runs.fit(_recipe(folder, epochs, BATCHES + 2), seed=0, resume=False, runs_dir=folder / "runs", crew=crew)


def finished(
    folder: Path, processes: int, seed: int = 0, epochs: int = EPOCHS
) -> tuple[runs.Trained, list[dict[str, Any]]]:
    """The run that was trained into `folder`, and what each process left."""
    recipe, crew = _recipe(folder, epochs), here(processes)
    run = runs.fit(recipe, seed=seed, resume=True, runs_dir=folder / "runs", crew=crew)
    return run, [torch.load(folder / f"rank-{rank}.pt") for rank in range(processes)]


def _recipe(folder: Path, epochs: int, last_step: int | None = None) -> Recipe:
    run = echo.RECIPE.run.model_copy(update={"epochs": epochs})
    return dataclasses.replace(echo.RECIPE, kind=kind(folder, last_step), run=run)


def assert_same_model(one: runs.Trained, other: runs.Trained) -> None:
    """Gradients are averaged and each validates on all rows: weights and figure agree but for rounding."""
    for name, weight in one.module.state_dict().items():
        torch.testing.assert_close(other.module.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert other.figure == pytest.approx(one.figure, rel=1e-4)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    catalogue.KINDS = {"echo": kind(folder)}
    model_directory.serving = echo.no_server
    cli.app(arguments(folder, *sys.argv[2:]))
