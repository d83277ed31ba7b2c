"""Two training processes over gloo do what one does: each its rows of every batch, one set of weights, one model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import echo
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from service.contract.files import read_manifest
from training import catalogue, cli
from training.fit import runs
from training.fit.ddp import share
from training.publish import model_directory

EPOCHS, BATCHES = 2, 5


class Witness(echo.Echo):
    """An echo that writes down what each process saw, drew and had learned at the end; its last batch is one row."""

    rows = 33

    def __init__(self, folder: Path) -> None:
        super().__init__(seed=0, dropout=0.0)
        self.folder = folder
        self.seen: list[Tensor] = []
        self.drawn: list[float] = []

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        self.seen.append(batch[0])
        self.drawn.append(torch.rand(1).item())
        return super().training_step(batch, index)

    def on_fit_end(self) -> None:
        left = {"seen": self.seen, "drawn": self.drawn, "weights": self.state_dict()}
        torch.save(left, self.folder / f"rank-{self.global_rank}.pt")


def train(folder: Path, processes: int) -> tuple[runs.Trained, list[dict[str, Any]]]:
    """Train and publish a witness by the command; return the run and what each process left."""
    folders = ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    with pytest.MonkeyPatch.context() as patch:
        file = echo.recipe_file(folder, patch)
        patch.setattr(model_directory, "serving", echo.no_server)
        kind = dataclasses.replace(
            echo.KIND,
            prepare=lambda settings, seed: Witness(folder),
            release=lambda name, settings, module: echo.release(module, name, measure=lambda url: ()),
        )
        patch.setitem(catalogue.KINDS, "echo", kind)
        result = CliRunner().invoke(cli.app, ["train", file, "--processes", str(processes), *folders])
        assert result.exit_code == 0, result.output
        finished = catalogue.find_recipe(file)
        run = runs.fit(finished, seed=0, resume=True, runs_dir=folder / "runs", processes=processes)
    return run, [torch.load(folder / f"rank-{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("one"), processes=1)


@pytest.fixture(scope="module")
def two_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(two_folder: Path) -> Any:
    return train(two_folder, processes=2)


def test_each_row_is_one_process_s_alone(one: Any, two: Any) -> None:
    """Of every batch the processes see different rows, together all of them; a batch of one row goes to both."""
    (_, (alone,)), (_, shares) = one, two
    assert [len(batch) for batch in shares[0]["seen"]] == [4, 4, 4, 4, 1] * EPOCHS
    for whole, *parts in zip(alone["seen"], *(left["seen"] for left in shares), strict=True):
        if len(whole) > 1:
            assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)
        else:
            assert all(torch.equal(part, whole) for part in parts)


def test_processes_end_with_the_same_weights(two: Any) -> None:
    first, second = (left["weights"] for left in two[1])
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_two_processes_learn_what_one_does(one: Any, two: Any) -> None:
    """Gradients are averaged and each validates on all rows: weights and figure agree but for rounding."""
    (single, _), (double, _) = one, two
    for name, weight in single.module.state_dict().items():
        torch.testing.assert_close(double.module.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    assert double.figure == pytest.approx(single.figure, rel=1e-4)


def test_processes_draw_their_own_numbers(one: Any, two: Any) -> None:
    """Dropout differs between the processes, from step to step; the first draws as one alone would."""
    (_, (alone,)), (_, (first, second)) = one, two
    assert first["drawn"] == alone["drawn"]
    assert len({*first["drawn"], *second["drawn"]}) == 2 * BATCHES * EPOCHS


def test_share_leaves_a_tensor_without_rows() -> None:
    """A flag of the whole batch is every process's."""
    assert share(torch.tensor(True), rank=1, processes=2)


def test_train_with_two_processes_publishes_one_model(two: Any, two_folder: Path) -> None:
    """The command trains in two processes, and publishes from one; the manifest's command says so."""
    models = two_folder / "models" / "echo"
    assert [path.name for path in models.iterdir()] == ["1"]
    provenance = read_manifest(models / "1").provenance
    assert provenance is not None
    assert provenance.command.endswith(f"--seeds 0 --epochs {EPOCHS} --processes 2")
