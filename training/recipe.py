"""What a model must bring to be trained and published; `training.fit` and `training.publish` do the rest.

It knows no task and no file. A recipe is a kind of task with settings: it prepares a Lightning module with its own
data, and turns the trained module into a release. Invariant: a recipe's settings are of its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import lightning
from pydantic import BaseModel, ConfigDict, Field

from service.contract.manifest import Task
from service.contract.parts import AnyFeedback, Characters, Forecast, Signal
from service.contract.provenance import DataSource, Metric, Network
from training.export.graph import Servable

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class TextReader:
    """How a published model reads text: the tokenizer as JSON, and the contract's other facts."""

    tokenizer_json: str
    max_length: int
    unknown_token: str
    polarity: tuple[float, ...] | None = None
    characters: Characters | None = None


@dataclass(frozen=True)
class Release:
    """Everything that publishing needs of a trained model.

    `measure(base_url)` asks a running service that serves this model for its figures. `limits` are sentences for the
    card: what the model should not be trusted with. `text` reads what the steps read, `condition_text` the conditions
    that the start graph reads.
    """

    name: str
    task: Task
    description: str
    servable: Servable
    data: tuple[DataSource, ...]
    licence: str
    limits: tuple[str, ...]
    measure: Callable[[str], tuple[Metric, ...]]
    networks: tuple[Network, ...]
    text: TextReader | None = None
    forecast: Forecast | None = None
    signal: Signal | None = None
    feedback: AnyFeedback | None = None
    condition_text: TextReader | None = None


class Section(BaseModel):
    """A section of a recipe's file: immutable, unknown keys refused. Each task's settings are a section, without
    defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Run(Section):
    """How a training run goes, whatever the task.

    `monitor` is the validation figure, logged by the module, that chooses the checkpoint and, after `patience` epochs
    without a better one, ends the run. Gradients are clipped to the norm `gradient_norm`. `precision` is what to train
    in where the machine can.
    """

    epochs: int = Field(ge=1)
    monitor: str
    mode: Literal["min", "max"]
    patience: int = Field(ge=1)
    gradient_norm: float = Field(gt=0)
    precision: Precision


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Kind(Generic[S]):
    """A task that recipes can have: what it may be set to, and the two ends of a run.

    `prepare(settings, seed)` returns a module that brings its data loaders and logs the validation `figures`,
    `release(name, settings, module)` what is published of the trained module as the model `name`.
    """

    settings: type[S]
    figures: tuple[str, ...]
    prepare: Callable[[S, int], lightning.LightningModule]
    release: Callable[[str, S, lightning.LightningModule], Release]


@dataclass(frozen=True)
class Recipe:
    """How one model is made."""

    name: str
    summary: str
    kind: Kind[Any]
    run: Run
    settings: Section

    def prepare(self, seed: int) -> lightning.LightningModule:
        """Return an untrained module with its data."""
        return self.kind.prepare(self.settings, seed)

    def release(self, module: lightning.LightningModule) -> Release:
        """Return the trained module as what is published."""
        return self.kind.release(self.name, self.settings, module)
