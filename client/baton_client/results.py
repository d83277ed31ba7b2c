"""What comes out of answers: results as dataclasses with numpy arrays.

It knows the API's JSON, not how it travels. Invariant: a failed item is never left out; reading it raises its error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar, overload

import numpy as np

from baton_client.errors import ApiError
from baton_client.inputs import Array


@dataclass(frozen=True, slots=True)
class SentimentResult:
    """The label of a text. Shapes: `polarity` -1 to 1; `scores` by label, where all were asked for."""

    id: str | None
    label: str
    score: float
    polarity: float | None
    scores: dict[str, float] | None
    tokens: int
    truncated: bool
    unknown_ratio: float


@dataclass(frozen=True, slots=True)
class ForecastResult:
    """The next values of a series. Shapes: `mean` and each of `quantiles`, by probability, [horizon], or of rows
    [horizon, channels]; `channels` are their names, where the model has some."""

    id: str | None
    mean: Array
    quantiles: dict[float, Array]
    timestamps: list[str] | None
    warnings: list[str]
    channels: list[str] | None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The outputs of some steps. `step` counts all steps of the session. Shapes: each of `outputs` has the shape of a
    single step; with returns="all" a first axis of k steps before it."""

    outputs: dict[str, Array]
    step: int
    tokens: list[str] | None


@dataclass(frozen=True, slots=True)
class StepResult(StepOutput):
    """A StepOutput with the `state` from which to go on, until `expires_at`."""

    id: str | None
    version: str
    state: str
    expires_at: datetime


T = TypeVar("T")


class Batch(Sequence[T]):
    """The results of a request's items, in their order; reading an item that failed raises its ApiError.

    `errors` holds the failed items by index; it is empty when all is well. `model`, `version`, `usage` and `timing_ms`
    are the answer's.
    """

    def __init__(self, answer: Mapping[str, Any], read: Callable[[Mapping[str, Any]], T]) -> None:
        self.model: str = answer["model"]
        self.version: str = answer["version"]
        self.usage: dict[str, Any] = answer["usage"]
        self.timing_ms: dict[str, float] = answer["timing_ms"]
        self._items = [ApiError(item["error"]) if "error" in item else read(item) for item in answer["results"]]
        self.errors = {index: item for index, item in enumerate(self._items) if isinstance(item, ApiError)}

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        item = self._items[index]
        if isinstance(item, ApiError):
            raise item
        return item


def read_sentiment(item: Mapping[str, Any]) -> SentimentResult:
    """Return a result of /v1/sentiment."""
    members: dict[str, Any] = {field.name: item.get(field.name) for field in fields(SentimentResult)}
    return SentimentResult(**members)


def read_forecast(item: Mapping[str, Any]) -> ForecastResult:
    """Return a result of /v1/forecast."""
    quantiles = {float(level): np.array(values) for level, values in item["quantiles"].items()}
    mean, timestamps, channels = np.array(item["mean"]), item.get("timestamps"), item.get("channels")
    return ForecastResult(item["id"], mean, quantiles, timestamps, item["warnings"], channels)


def read_step(item: Mapping[str, Any]) -> StepResult:
    """Return a result of /v1/step."""
    return StepResult(
        outputs={name: np.array(value) for name, value in item["outputs"].items()},
        step=item["step"],
        tokens=item.get("tokens"),
        id=item["id"],
        version=item["version"],
        state=item["state"],
        expires_at=datetime.fromisoformat(item["expires_at"]),
    )
