"""What comes out of answers: results as dataclasses with numpy arrays.

It knows the API's JSON, not how it travels. Invariant: a failed item is never left out; reading it raises its error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """A StepOutput with the `state` from which to go on, until `expires_at`; `warnings` say why the condition is
    doubtful."""

    id: str | None
    version: str
    state: str
    expires_at: datetime
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Tag:
    """A word of a text and its label. Units: `start` and `end` in characters of the text, `end` being behind the word.

    They are None where the text came as words; `scores`, by label, where all were asked for.
    """

    text: str
    start: int | None
    end: int | None
    label: str
    score: float
    scores: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class TagResult:
    """The words of a text, each with its label."""

    id: str | None
    tokens: list[Tag]
    unknown_ratio: float


@dataclass(frozen=True, slots=True)
class TransformResult:
    """What a series becomes. Shapes: `outputs` has as many numbers, or rows, as the series."""

    id: str | None
    outputs: Array


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """The label of a sequence of `steps`; `scores` by label, where all were asked for.

    `tokens`, `truncated` and `unknown_ratio` are of texts, `seconds` of audio: how long it was.
    """

    id: str | None
    label: str
    score: float
    scores: dict[str, float] | None
    steps: int
    tokens: int | None
    truncated: bool | None
    unknown_ratio: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Choice:
    """What was generated: a `text`, `ids` of a model without a tokenizer, or `points` of a pen, and the `state` from
    which to go on. `svg` is a picture of the points, where it was asked for.

    `finish` says why it ended: "stop", "length", "end", or "error" where it was cut short; `seed` gives it again. With
    `beams` it was searched for instead: `score` is its log probability over the length penalty. `warnings` say why
    the condition is doubtful.

    Shapes: `points` [steps, 3], offsets to the right and upwards, and 1 where a stroke ends; `probabilities` of each of
    its `steps`, where they were asked for. `step` counts all steps of the session.
    """

    text: str | None
    ids: list[int] | None
    points: Array | None
    svg: str | None
    probabilities: Array | None
    seed: int | None
    score: float | None
    steps: int
    finish: str
    step: int
    version: str
    state: str
    expires_at: datetime
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """What was generated from a prompt, `n` times."""

    id: str | None
    choices: list[Choice]


@dataclass(frozen=True, slots=True)
class GenerateEvent:
    """What comes next of a choice: a piece of its text, ids, or points. What is None did not come with this event.

    `state`, with its `step`, `version` and `expires_at`, comes with the last event of a choice, which has `finish`,
    `warnings` where the condition is doubtful (and `svg`), and every `state_every` steps.
    """

    choice: int
    text: str | None
    ids: list[int] | None
    points: Array | None
    svg: str | None
    probabilities: Array | None
    seed: int | None
    steps: int | None
    finish: str | None
    step: int | None
    version: str | None
    state: str | None
    expires_at: datetime | None
    warnings: list[str]


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
        self._items = [_failure(item) if "error" in item else read(item) for item in answer["results"]]
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
    return SentimentResult(**_members(SentimentResult, item))


def read_tags(item: Mapping[str, Any]) -> TagResult:
    """Return a result of /v1/tag."""
    return TagResult(item["id"], [Tag(**_members(Tag, token)) for token in item["tokens"]], item["unknown_ratio"])


def read_transform(item: Mapping[str, Any]) -> TransformResult:
    """Return a result of /v1/transform."""
    return TransformResult(item["id"], np.array(item["outputs"]))


def read_class(item: Mapping[str, Any]) -> ClassifyResult:
    """Return a result of /v1/classify."""
    return ClassifyResult(**_members(ClassifyResult, item))


def read_generated(item: Mapping[str, Any]) -> GenerateResult:
    """Return a result of /v1/generate."""
    return GenerateResult(item["id"], _choices(item["choices"]))


def read_event(event: Mapping[str, Any]) -> GenerateEvent:
    """Return an event of a choice, of a stream of /v1/generate. Raises: the item's ApiError."""
    if "error" in event:
        raise ApiError(event["error"])
    return GenerateEvent(**_generated(GenerateEvent, event))


def _choices(given: Iterable[Mapping[str, Any]]) -> list[Choice]:
    return [Choice(**_generated(Choice, choice)) for choice in given]


def _failure(item: Mapping[str, Any]) -> ApiError:
    """Return the error of an item, with what was written before it."""
    return ApiError(item["error"], choices=_choices(item.get("choices", ())))


def _generated(kind: type[Choice | GenerateEvent], given: Mapping[str, Any]) -> dict[str, Any]:
    members = _members(kind, {"warnings": [], **given})
    expires_at, points = given.get("expires_at"), given.get("points")
    probabilities = given.get("probabilities")
    return {
        **members,
        "expires_at": expires_at and datetime.fromisoformat(expires_at),
        "points": None if points is None else np.array(points, np.float64).reshape(-1, 3),
        "probabilities": None if probabilities is None else np.array(probabilities),
    }


def _members(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that are the fields of `kind`. Raises: KeyError where it lacks a field that cannot be None."""
    return {
        field.name: given.get(field.name) if "None" in str(field.type) else given[field.name] for field in fields(kind)
    }


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
        warnings=item.get("warnings", []),
    )
