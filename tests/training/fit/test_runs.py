"""Training runs: interrupted ones go on, finished ones stay, each seed has its own, and the best one is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import echo
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.weight_averaging import EMAWeightAveraging
from torch import Tensor
from typer.testing import CliRunner

from service.contract.files import read_manifest
from training import cli
from training.fit import runs
from training.fit.curve import learning_curve
from training.fit.job import LOG, TENSORBOARD
from training.fit.runs import ResumeError, best_of, fit, fit_seeds, run_folder
from training.recipe import Recipe

THREE = dataclasses.replace(echo.RECIPE, run=echo.RECIPE.run.model_copy(update={"epochs": 3}))
STEPS_AN_EPOCH = 4


class Interrupted(Exception):
    """As when the machine goes down."""


class Fragile(echo.Echo):
    """An echo that ends at a step."""

    last_step = 0

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == self.last_step:
            raise Interrupted
        return super().training_step(batch, index)


def ending_at(step: int, recipe: Recipe = THREE, kind: type[Fragile] = Fragile) -> Recipe:
    def prepare(settings: Any, seed: int) -> Fragile:
        module = kind(seed)
        module.last_step = step
        return module

    return dataclasses.replace(recipe, kind=dataclasses.replace(recipe.kind, prepare=prepare))


def equal(one: runs.Trained, other: runs.Trained) -> bool:
    weights = other.module.state_dict()
    return all(torch.equal(weight, weights[name]) for name, weight in one.module.state_dict().items())


@pytest.fixture
def whole(tmp_path: Path) -> runs.Trained:
    """Three epochs in one go."""
    return fit(THREE, seed=3, resume=False, runs_dir=tmp_path / "whole")


def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, whole: runs.Trained) -> None:
    """Interrupted within the second epoch and resumed: data, dropout, optimizer, figure and curve agree."""
    with pytest.raises(Interrupted):
        fit(ending_at(STEPS_AN_EPOCH + 2), seed=3, resume=False, runs_dir=tmp_path / "parts")
    resumed = fit(THREE, seed=3, resume=True, runs_dir=tmp_path / "parts")
    assert equal(resumed, whole)
    assert resumed.figure == whole.figure
    assert learning_curve(resumed.folder / LOG) == learning_curve(whole.folder / LOG)


class Averaged(Fragile):
    """A fragile echo of which the running mean of the weights is kept."""

    def configure_callbacks(self) -> list[Callback]:
        return [EMAWeightAveraging(decay=0.9, update_every_n_steps=2)]


def test_resumed_run_goes_on_averaging(tmp_path: Path) -> None:
    """The mean of the weights and the weights themselves both go on where they were."""
    whole = fit(ending_at(-1, THREE, Averaged), seed=3, resume=False, runs_dir=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(ending_at(STEPS_AN_EPOCH + 2, THREE, Averaged), seed=3, resume=False, runs_dir=tmp_path / "parts")
    resumed = fit(ending_at(-1, THREE, Averaged), seed=3, resume=True, runs_dir=tmp_path / "parts")
    assert equal(resumed, whole)
    assert resumed.figure == whole.figure
    plain = fit(THREE, seed=3, resume=False, runs_dir=tmp_path / "plain")
    assert not equal(plain, whole)


def test_finished_run_is_not_trained_again(tmp_path: Path, whole: runs.Trained) -> None:
    """Resuming it gives the same model without a step, so that nothing is logged or kept anew."""
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    again = fit(THREE, seed=3, resume=True, runs_dir=tmp_path / "whole")
    assert equal(again, whole)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


def test_epochs_without_a_better_figure_are_not_trained_again(tmp_path: Path) -> None:
    """The state after the last epoch is kept whether or not that epoch was the best."""
    run = THREE.run.model_copy(update={"mode": "max"})  # the loss only falls, so that the first epoch is the best
    recipe = dataclasses.replace(THREE, run=run)
    first = fit(recipe, seed=3, resume=False, runs_dir=tmp_path)
    assert equal(fit(ending_at(STEPS_AN_EPOCH, recipe), seed=3, resume=True, runs_dir=tmp_path), first)


def test_run_that_ended_early_is_finished(tmp_path: Path) -> None:
    """Early stopping ends a run for good: a resumed one does not go on behind it."""
    run = THREE.run.model_copy(update={"epochs": 9, "mode": "max", "patience": 1})  # the loss only falls
    recipe = dataclasses.replace(THREE, run=run)
    ended = fit(recipe, seed=3, resume=False, runs_dir=tmp_path)
    assert len(learning_curve(ended.folder / LOG).splitlines()) == 1 + 2
    assert equal(fit(ending_at(2 * STEPS_AN_EPOCH, recipe), seed=3, resume=True, runs_dir=tmp_path), ended)


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    """There is nothing to go on with: the message says what to do."""
    with pytest.raises(ResumeError, match="train without --resume"):
        fit(THREE, seed=3, resume=True, runs_dir=tmp_path)
    with pytest.raises(ResumeError, match=r"seed-0, .*seed-1; train without --resume"):
        fit_seeds(THREE, (0, 1), resume=True, runs_dir=tmp_path)


@pytest.mark.usefixtures("whole")
def test_run_of_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    """A run whose settings have changed since is refused with what changed."""
    changed = dataclasses.replace(THREE, settings=echo.Settings(layers=2, dropout=0.5))
    with pytest.raises(ResumeError, match=r"settings\.dropout was 0\.2 and is now 0\.5; resume as it was begun"):
        fit(changed, seed=3, resume=True, runs_dir=tmp_path / "whole")


def test_seeds_have_runs_of_their_own_and_the_best_is_known(tmp_path: Path) -> None:
    """Resumed, a finished seed is kept as it is, an interrupted one goes on, and one that did not begin begins."""
    first = fit(THREE, seed=0, resume=False, runs_dir=tmp_path)
    with pytest.raises(Interrupted):
        fit(ending_at(STEPS_AN_EPOCH), seed=1, resume=False, runs_dir=tmp_path)
    trained = fit_seeds(THREE, (0, 1, 2), resume=True, runs_dir=tmp_path)
    assert [run.folder for run in trained] == [run_folder(tmp_path, echo.MODEL, seed) for seed in (0, 1, 2)]
    assert equal(trained[0], first)
    assert not equal(trained[1], first)
    assert best_of(THREE, trained).figure == min(run.figure for run in trained)


def test_run_leaves_tensorboard_logs(whole: runs.Trained) -> None:
    """The figures stand in TensorBoard's event files as well."""
    (events,) = (whole.folder / TENSORBOARD).glob("version_0/events.*")
    content = events.read_bytes()
    assert content.count(b"val_loss") == 3
    assert content.count(b"train_loss") == 3 * STEPS_AN_EPOCH


def test_learning_curve_has_the_mean_of_each_epoch(tmp_path: Path) -> None:
    """Of an epoch in two logs the later counts; a figure that an epoch lacks is left empty."""
    for version, rows in (
        (2, "0,1,2,\n0,2,4,\n0,2,,5\n1,3,9,\n"),
        (10, "1,3,1,\n1,4,3,\n1,4,,0.25\n2,5,7,\n"),
    ):
        log = tmp_path / f"version_{version}"
        log.mkdir()
        (log / "metrics.csv").write_text("epoch,step,train_loss,val_loss\n" + rows)
    assert learning_curve(tmp_path) == "epoch,train_loss,val_loss\n0,3,5\n1,2,0.25\n2,7,\n"


def test_train_with_seeds_publishes_the_best_with_the_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best on validation data is published; every figure is measured for every seed, and the spread is told."""
    recipe = echo.recipe_file(tmp_path, monkeypatch)
    folders = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    result = CliRunner().invoke(cli.app, ["train", recipe, "--seeds", "4,2", *folders])
    assert result.exit_code == 0, result.output
    directory = tmp_path / "models/echo/1"
    provenance = read_manifest(directory).provenance
    assert provenance is not None
    trained = fit_seeds(echo.RECIPE, (4, 2), resume=True, runs_dir=tmp_path / "runs")
    best = best_of(echo.RECIPE, trained)
    assert (provenance.seed, provenance.seeds) == (best.seed, (2, 4))
    assert provenance.command == f"python -m training train {Path(recipe).name} --seeds 4,2 --epochs 2"
    (metric,) = provenance.metrics
    assert metric.seeds is not None
    assert len({*metric.seeds}) == 2
    assert metric.value == dict(zip((2, 4), metric.seeds, strict=True))[best.seed]
    low, high = min(metric.seeds), max(metric.seeds)
    assert f"{metric.value:.4g} ({low:.4g} to {high:.4g} over seeds 2, 4)" in (directory / "card.md").read_text()
    assert (directory / "training.csv").read_text() == learning_curve(best.folder / LOG)


@pytest.mark.parametrize("seeds", ["", "0,0", "-1", "1.5", "4294967296", "0,,1"])
def test_seeds_that_are_none_are_refused(seeds: str) -> None:
    result = CliRunner().invoke(cli.app, ["train", "sentiment", "--seeds", seeds])
    assert result.exit_code == 2
    assert "is not a list of seeds" in result.output
