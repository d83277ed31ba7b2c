"""Small things to publish: a bare recurrent stack, and a recipe that learns to repeat what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from service.contract import provenance, tensors
from training import catalogue
from training.evaluate import ask
from training.export.graph import Array, Servable
from training.networks.recurrent import Recurrent
from training.recipe import Kind, Recipe, Release, Run, Section

MODEL = "echo"
TIME = 6


class Stack(nn.Module):
    """A recurrent stack with the signature of a servable network."""

    def __init__(self, recurrent: Recurrent) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        y, carried = self.recurrent(x, lengths, states or None)
        return y, *carried


def draw_rows(features: int) -> Any:
    def draw(rng: np.random.Generator, length: int) -> Array:
        return rng.normal(size=(length, features)).astype(np.float32)

    return draw


def servable_stack(recurrent: Recurrent, features: int) -> Servable:
    """The stack alone, streamable in one direction."""
    width = recurrent.hidden_size * recurrent.directions
    return Servable(
        Stack(recurrent),
        tensors.Tensor(name="x", dtype="float32", shape=("batch", "time", features)),
        (tensors.Tensor(name="y", dtype="float32", shape=("batch", "time", width)),),
        draw_rows(features),
        states=recurrent.states,
        streamable=not recurrent.bidirectional,
    )


class Echo(lightning.LightningModule):
    """Learn to give each number back."""

    rows = 32

    def __init__(self, seed: int, layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = Stack(Recurrent("gru", 1, 1, layers=layers, dropout=dropout))

    def _numbers(self, seed: int) -> TensorDataset:
        return TensorDataset(torch.randn(self.rows, TIME, 1, generator=torch.Generator().manual_seed(seed)))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._numbers(self.current_epoch), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._numbers(10_000), batch_size=8)

    def _loss(self, numbers: Tensor) -> Tensor:
        lengths = torch.full((len(numbers),), TIME, dtype=torch.int32)
        return functional.mse_loss(self.network(numbers, lengths)[0], numbers)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = self._loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", self._loss(batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def measure(model: str, url: str) -> tuple[provenance.Metric, ...]:
    """The error of one number's echo, through the service, beside that of always answering zero."""
    (result,) = ask(url, "/v1/step", "items", [{"inputs": [[0.5]]}], model=model)
    error = abs(result["outputs"]["y"][0] - 0.5)
    return (provenance.Metric(name="echo_error", value=error, floor=0.5, floor_method="always zero"),)


class Settings(Section):
    """What an echo recipe sets."""

    layers: int
    dropout: float


def release(module: lightning.LightningModule, name: str = MODEL, **changes: Any) -> Release:
    """The trained echo as a release, `changes` in place of its own parts."""
    network = module.network
    assert isinstance(network, Stack)
    parts: dict[str, Any] = {
        "name": name,
        "task": "step",
        "description": "Gives each number back.",
        "servable": servable_stack(network.recurrent, 1),
        "data": (provenance.DataSource(name="normal numbers", part="drawn while training"),),
        "licence": "Apache-2.0",
        "limits": ("It is a test.",),
        "measure": partial(measure, name),
        "networks": (network.recurrent.network,),
    }
    return Release(**parts | changes)


KIND = Kind(
    Settings,
    ("val_loss",),
    lambda settings, seed: Echo(seed, settings.layers, settings.dropout),
    lambda name, settings, module: release(module, name),
)
RECIPE = Recipe(
    name=MODEL,
    summary="gives each number back",
    kind=KIND,
    run=Run(epochs=2, monitor="val_loss", mode="min", patience=3, gradient_norm=1.0, precision="32-true"),
    settings=Settings(layers=2, dropout=0.2),
)


FILE = """
kind = "echo"
summary = "gives each number back"

[run]
epochs = 2
monitor = "val_loss"
mode = "min"
patience = 3
gradient_norm = 1.0
precision = "32-true"

[settings]
layers = 2
dropout = 0.2
"""


def recipe_file(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str = FILE) -> str:
    """A file of one's own with the echo's recipe, and the echo among the kinds."""
    monkeypatch.setattr(catalogue, "KINDS", {**catalogue.KINDS, "echo": KIND})
    file = folder / f"{MODEL}.toml"
    file.write_text(content)
    return str(file)


@contextmanager
def no_server(models_dir: Path) -> Iterator[str]:
    """Stand in for the server of each candidate, where no figure is asked of it."""
    yield "no server"


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
