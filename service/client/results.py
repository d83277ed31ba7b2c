"""What goes into requests and comes out of answers: inputs as members, results as dataclasses with numpy arrays.

It knows the API's JSON, not how it travels. Invariant: a failed item is never left out; reading it raises its error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from service.client.errors import ApiError

Array = npt.NDArray[Any]
Inputs = npt.ArrayLike | str  # k rows of features, k numbers for a one-number model, or a text


class New(Enum):
    """The type of NEW."""

    NEW = "new"

    def __repr__(self) -> str:
        return "NEW"


NEW = New.NEW
"""In place of a state: begin a new session. None is refused, so that a lost token is noticed."""


@dataclass(frozen=True, slots=True)
class StepItem:
    """The next steps of one session, among others of one request."""

    inputs: Inputs
    state: str | New = NEW
    id: str | None = None

    def body(self) -> dict[str, Any]:
        """Return the item as /v1/step takes it."""
        return {**({"id": self.id} if self.id is not None else {}), **state_member(self.state), **members(self.inputs)}


@dataclass(frozen=True, slots=True)
class SentimentResult:
    """One text's label. Shapes: `polarity` -1 to 1; `scores` by label, where all were asked for."""

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
    """One series' next values. Shapes: `mean` and each of `quantiles`, by probability, [horizon], or of rows
    [horizon, channels]; `channels` are their names, where the model has some."""

    id: str | None
    mean: Array
    quantiles: dict[float, Array]
    timestamps: list[str] | None
    warnings: list[str]
    channels: list[str] | None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What some steps gave. `step` counts those of the session. Shapes: each of `outputs` that of one step; with
    returns="all" a first axis of k steps more."""

    outputs: dict[str, Array]
    step: int
    tokens: list[str] | None


@dataclass(frozen=True, slots=True)
class StepResult(StepOutput):
    """The same with the `state` to go on from, until `expires_at`."""

    id: str | None
    version: str
    state: str
    expires_at: datetime


T = TypeVar("T")


class Batch(Sequence[T]):
    """The results of a request's items, in their order; reading one that failed raises its ApiError.

    `errors` holds the failed ones by index; it is empty when all is well. `model`, `version`, `usage` and `timing_ms`
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


def state_member(state: str | New) -> dict[str, str]:
    """Return the member of a request that says where the session is. Raises: ValueError for None."""
    if isinstance(state, New):
        return {}
    if not isinstance(state, str):
        raise ValueError(f"state is {state!r}; give a token, or NEW to begin a session")
    return {"state": state}


def members(inputs: Inputs) -> dict[str, Any]:
    """Return the member of a request that holds the steps: a text, numbers (1-D) or rows of features (2-D)."""
    if isinstance(inputs, str):
        return {"text": inputs}
    array = np.asarray(inputs)
    if array.ndim not in (1, 2):
        raise ValueError(f"inputs have shape {array.shape}; give k rows of features, k numbers or a text")
    return {"values" if array.ndim == 1 else "inputs": array.tolist()}


def series_item(series: Mapping[str, Any] | npt.ArrayLike) -> dict[str, Any]:
    """Return a series, numbers (1-D) or rows of channels (2-D), as /v1/forecast takes it: NaN, a gap, as null."""
    given = dict(series) if isinstance(series, Mapping) else {"values": series}
    values = np.asarray(given["values"], float)
    if values.ndim not in (1, 2):
        raise ValueError(f"values have shape {values.shape}; give numbers, or rows of channels")
    cells: Array = np.where(np.isnan(values), np.array(None), values)
    return given | {"values": cells.tolist()}


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
