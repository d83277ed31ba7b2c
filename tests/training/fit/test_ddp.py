"""Two training processes over gloo do what one does: each its rows of every batch, one set of weights, one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import witness
from witness import BATCHES, EPOCHS

from service.contract.files import read_manifest
from training.fit.ddp import share


def train(folder: Path, processes: int) -> Any:
    """Train and publish; return the run and what each process left."""
    result = witness.train(folder, "--processes", str(processes))
    assert result.exit_code == 0, result.output
    return witness.finished(folder, processes)


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
    (single, _), (double, _) = one, two
    witness.assert_same_model(single, double)


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
