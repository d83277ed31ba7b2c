"""Whether an answer of the service is right: its form, its place in the request, and what must hold of its numbers.

It knows the API as docs/api.md describes it and the models of models/, and takes nothing from the service's code.
Invariant: an answer that a check returns keeps every rule below; any other raises `WrongAnswer`. Messages leave values
out, so that locust counts equal mistakes together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SAME = 1e-5  # largest difference of two answers to one question, relative to the largest value above 1
ROUNDING = 1e-5  # scores are shown with six digits
LIVE_TEXT_SUM = 1e-4  # float32 scores of a step, not rounded

Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


class WrongAnswer(Exception):
    """The service answered something that it must not; the message says what."""


class TokenRefused(WrongAnswer):
    """A token that the service made was not taken: the session cannot go on."""


class Model(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Result(Model):
    index: int
    id: str | None

    @model_validator(mode="before")
    @classmethod
    def _did_not_fail(cls, data: Any) -> Any:
        if isinstance(data, dict) and "error" in data:
            raise WrongAnswer(f"an item failed: {data['error']}")
        return data


R = TypeVar("R", bound=Result)


class Answer(Model, Generic[R]):
    results: list[R]


class Sentiment(Result):
    label: Literal["negative", "positive"]
    score: Annotated[float, Field(ge=0.5, le=1)]
    polarity: Annotated[float, Field(ge=-1, le=1)]
    scores: dict[Literal["negative", "positive"], Probability] | None = None

    @model_validator(mode="after")
    def _numbers_agree(self) -> Sentiment:
        weight = 1 if self.label == "positive" else -1
        _require(abs(self.polarity - weight * (2 * self.score - 1)) < ROUNDING, "the polarity is not the score's")
        if self.scores is not None:
            _require(len(self.scores) == 2, "a label has no score")
            _require(abs(sum(self.scores.values()) - 1) < ROUNDING, "the scores do not sum to 1")
            _require(self.scores[self.label] == self.score, "the score is not the label's")
            _require(self.score == max(self.scores.values()), "the label is not that of the highest score")
        return self


class Forecast(Result):
    mean: list[Finite]
    quantiles: Annotated[dict[str, list[Finite]], Field(min_length=1)]

    @model_validator(mode="after")
    def _quantiles_do_not_cross(self) -> Forecast:
        bands = [self.quantiles[level] for level in sorted(self.quantiles, key=float)]
        for low, high in pairwise(bands):
            _require(all(a <= b for a, b in zip(low, high, strict=False)), "quantiles cross")
        return self


class Scored(Model):
    """A label of any model."""

    label: str
    score: Probability
    scores: dict[str, Probability] | None = None

    @model_validator(mode="after")
    def _numbers_agree(self) -> Scored:
        if self.scores is not None:
            _require(abs(sum(self.scores.values()) - 1) < ROUNDING * len(self.scores), "the scores do not sum to 1")
            _require(self.score == self.scores.get(self.label), "the score is not the label's")
            _require(self.score == max(self.scores.values()), "the label is not that of the highest score")
        return self


class Classified(Result, Scored):
    steps: int


class TaggedWord(Scored):
    text: str
    start: int
    end: int


class Tagged(Result):
    tokens: list[TaggedWord]


class Transformed(Result):
    outputs: list[Finite]


class Choice(Model):
    text: str
    seed: int
    steps: int
    finish: Literal["length"]


class Generated(Result):
    choices: list[Choice]


class LiveOutputs(Model):
    """The outputs of forecast-live or sentiment-live, one row or one for each step."""

    quantiles: list[Finite] | list[list[Finite]] | None = None
    scores: list[Probability] | list[list[Probability]] | None = None

    def rows(self) -> list[list[float]]:
        given = self.quantiles or self.scores
        if not given:
            raise WrongAnswer("a step has no outputs")
        rows: list[Any] = given if isinstance(given[0], list) else [given]
        return rows


class Step(Result):
    outputs: LiveOutputs
    state: str
    step: int
    tokens: list[str] | None = None


class ErrorBody(Model):
    code: str
    message: str


class ErrorAnswer(Model):
    error: ErrorBody


def sentiment(content: bytes, ids: Sequence[str], scores: str) -> list[Sentiment]:
    """Check an answer of /v1/sentiment that was asked for `scores`, "top" or "all"."""
    results = _results(Sentiment, content, ids)
    _require(all((result.scores is not None) == (scores == "all") for result in results), "scores are not as asked for")
    return results


def forecast(content: bytes, ids: Sequence[str], horizon: int) -> list[Forecast]:
    """Check an answer of /v1/forecast that was asked for `horizon` values."""
    results = _results(Forecast, content, ids)
    for result in results:
        lengths = {len(values) for values in (result.mean, *result.quantiles.values())}
        _require(lengths == {horizon}, "a forecast has not as many values as the horizon")
    return results


def classify(content: bytes, ids: Sequence[str]) -> list[Classified]:
    """Check an answer of /v1/classify that was asked for all scores."""
    results = _results(Classified, content, ids)
    _require(all(result.scores is not None for result in results), "scores are not as asked for")
    return results


def tag(content: bytes, ids: Sequence[str], texts: Sequence[str]) -> list[Tagged]:
    """Check an answer of /v1/tag to `texts`."""
    results = _results(Tagged, content, ids)
    for result, text in zip(results, texts, strict=True):
        stands = all(word.text == text[word.start : word.end] for word in result.tokens)
        _require(stands and bool(result.tokens), "a word does not stand at its place")
    return results


def transform(content: bytes, ids: Sequence[str], series: Sequence[Sequence[float]]) -> list[Transformed]:
    """Check an answer of /v1/transform to `series`."""
    results = _results(Transformed, content, ids)
    lengths = [len(result.outputs) for result in results]
    _require(lengths == [len(values) for values in series], "there are not as many outputs as values")
    return results


def generate(content: bytes, ids: Sequence[str], body: Mapping[str, Any]) -> str:
    """Check the answer of /v1/generate to `body`, of one item, and return the text."""
    (result,) = _results(Generated, content, ids)
    (choice,) = result.choices
    _require((choice.steps, choice.seed) == (body["max_steps"], body["seed"]), "steps or seed are not as asked for")
    return choice.text


def same_text(first: str, again: str) -> str:
    """Check that a text which was asked for again is the same."""
    _require(first == again, "the same seed gave another text")
    return again


def step(content: bytes, body: Mapping[str, Any], reached: int) -> Step:
    """Check the answer of /v1/step to `body`, which carries one session that had taken `reached` steps."""
    (item,) = body["items"]
    (result,) = _results(Step, content, [item["id"]])
    taken = len(item["values"]) if "values" in item else len(result.tokens or ())
    _require(taken > 0, "no step was taken")
    _require(result.step == reached + taken, "the step counter has not risen by the steps sent")
    _require(result.state != item.get("state"), "the token has not changed")
    rows = result.outputs.rows()
    _require(len(rows) == (taken if body["return"] == "all" else 1), "there are not as many outputs as asked for")
    if result.outputs.quantiles is not None:
        _require(all(low <= high for row in rows for low, high in pairwise(row)), "quantiles cross")
    else:
        _require(all(abs(sum(row) - 1) < LIVE_TEXT_SUM for row in rows), "the scores do not sum to 1")
    return result


def retried(first: Step, again: Step) -> Step:
    """Check that `again`, a step taken from the token and with the inputs of `first`, is the same step."""
    _require((again.step, again.tokens) == (first.step, first.tokens), "a retry reached another step")
    before, now = (list(chain.from_iterable(answer.outputs.rows())) for answer in (first, again))
    bound = SAME * max(1, *map(abs, before))
    differs = len(before) != len(now) or any(abs(a - b) > bound for a, b in zip(before, now, strict=True))
    _require(not differs, "a retry gave other outputs")
    return again


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> tuple[str, float]:
    """Read an answer that is not 200: the code of a refusal that may be tried again, and after how many seconds.

    Raises: WrongAnswer for any other error, and for a 429 that does not say when to come back.
    """
    error = _parsed(ErrorAnswer, content).error
    if error.code.startswith("state_"):
        raise TokenRefused(f"{status} {error.code}: a token of the service was refused")
    if (status, error.code) not in {(429, "overloaded"), (504, "deadline")}:
        raise WrongAnswer(f"{status} {error.code}: {error.message}")
    after = headers.get("retry-after", "")
    _require(after.isdecimal() or (status == 504 and not after), f"{status} without Retry-After in whole seconds")
    return error.code, float(after or 0)


def _results(kind: type[R], content: bytes, ids: Sequence[str]) -> list[R]:
    results = _parsed(Answer[kind], content).results
    _require(len(results) == len(ids), "there are not as many results as items")
    _require([result.id for result in results] == list(ids), "results are not in the order of the items' ids")
    _require([result.index for result in results] == list(range(len(ids))), "results are not in the order of the index")
    return results


M = TypeVar("M", bound=BaseModel)


def _parsed(kind: type[M], content: bytes) -> M:
    try:
        return kind.model_validate_json(content)
    except ValidationError as failure:
        error = failure.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in error["loc"] if not isinstance(part, int))
        raise WrongAnswer(f"malformed answer: {where}: {error['msg']}") from None


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise WrongAnswer(otherwise)
