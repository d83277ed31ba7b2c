"""What a model must bring to be trained and published; `training.runs` and `training.publish` do the rest.

It knows no task. A recipe prepares a Lightning module with its own data, and turns the trained module into a release.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import lightning

from service.contract import DataSource, Forecast, Metric, Network, Task
from training.export import Servable


@dataclass(frozen=True)
class TextReader:
    """How a published model reads text: the tokenizer as JSON, and the contract's other facts."""

    tokenizer_json: str
    max_length: int
    unknown_token: str
    polarity: tuple[float, ...]


@dataclass(frozen=True)
class Release:
    """Everything that publishing needs of a trained model.

    `measure(base_url)` asks a running service that serves this model for its figures. `limits` are sentences for the
    card: what the model should not be trusted with.
    """

    name: str
    task: Task
    description: str
    servable: Servable
    data: tuple[DataSource, ...]
    licence: str
    limits: tuple[str, ...]
    measure: Callable[[str], tuple[Metric, ...]]
    network: Network
    text: TextReader | None = None
    forecast: Forecast | None = None


@dataclass(frozen=True)
class Recipe:
    """How one model is made.

    `prepare(seed, epochs)` returns a module that brings its data loaders; `monitor` is the validation figure, logged by
    the module, that chooses the checkpoint and, after `patience` epochs without a better one, ends the run.
    """

    name: str
    summary: str
    epochs: int
    monitor: str
    mode: Literal["min", "max"]
    prepare: Callable[[int, int], lightning.LightningModule]
    release: Callable[[lightning.LightningModule], Release]
    patience: int = 3
