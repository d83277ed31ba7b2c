"""What the load test accepts as an answer, and what it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import answers
import pytest

from loadtests import checks

TEXTS = {"inputs": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}], "scores": "all"}
SERIES = {"series": [{"id": "a", "values": [1.0]}], "horizon": 3}
STEP = {"items": [{"id": "a", "values": [1.0, 2.0], "state": "5-0"}], "return": "all"}
TEXT_STEP = {"items": [{"id": "a", "text": "good film", "state": "5-0"}], "return": "last"}

CHECKS: dict[str, Callable[[bytes], object]] = {
    "sentiment": lambda content: checks.sentiment(content, ["a", "b"], "all"),
    "forecast": lambda content: checks.forecast(content, ["a"], 3),
    "step": lambda content: checks.step(content, STEP, 5),
    "text": lambda content: checks.step(content, TEXT_STEP, 5),
}
RIGHT = {
    "sentiment": answers.right("/v1/sentiment", TEXTS),
    "forecast": answers.right("/v1/forecast", SERIES),
    "step": answers.right("/v1/step", STEP),
    "text": answers.right("/v1/step", TEXT_STEP),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_right_answer_is_accepted(name: str) -> None:
    CHECKS[name](json.dumps(RIGHT[name]).encode())


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("sentiment", {"label": "negative"}, "the polarity is not the score's"),
        ("sentiment", {"label": "negative", "polarity": -0.5}, "the score is not the label's"),
        ("sentiment", {"label": "neutral"}, "malformed answer: results.label"),
        ("sentiment", {"score": 1.5}, "malformed answer: results.score"),
        ("sentiment", {"scores": {"positive": 0.75, "negative": 0.26}}, "the scores do not sum to 1"),
        ("sentiment", {"scores": {"positive": 0.75}}, "a label has no score"),
        ("sentiment", {"scores": None}, "scores are not as asked for"),
        ("sentiment", {"id": "b"}, "results are not in the order of the items' ids"),
        ("sentiment", {"index": 1}, "results are not in the order of the index"),
        ("sentiment", {"error": {"code": "empty_input"}}, "an item failed: {'code': 'empty_input'}"),
        ("forecast", {"mean": [0.0] * 2}, "a forecast has not as many values as the horizon"),
        ("forecast", {"mean": [0.0, float("nan"), 0.0]}, "malformed answer: results.mean"),
        ("forecast", {"mean": [0.0, None, 0.0]}, "malformed answer: results.mean"),
        ("forecast", {"quantiles": {"0.1": [1, 1, 1.2], "0.9": [1, 1, 1.1]}}, "quantiles cross"),
        ("forecast", {"quantiles": {"0.1": [1, 1], "0.9": [1, 1]}}, "a forecast has not as many values"),
        ("step", {"step": 5}, "the step counter has not risen by the steps sent"),
        ("step", {"state": "5-0"}, "the token has not changed"),
        ("step", {"outputs": {"quantiles": [[1, 2, 3]]}}, "there are not as many outputs as asked for"),
        ("step", {"outputs": {"quantiles": [[1, 2, 3], [1, 3, 2]]}}, "quantiles cross"),
        ("step", {"outputs": {"quantiles": [[1, 2, 3], [1, 2, float("inf")]]}}, "malformed answer: results.outputs"),
        ("step", {"outputs": {}}, "a step has no outputs"),
        ("text", {"tokens": ["good"]}, "the step counter has not risen by the steps sent"),
        ("text", {"tokens": []}, "no step was taken"),
        ("text", {"outputs": {"scores": [0.5, 0.6]}}, "the scores do not sum to 1"),
    ],
)
def test_a_wrong_answer_is_refused_with_the_reason(name: str, change: dict[str, Any], reason: str) -> None:
    first, *others = RIGHT[name]["results"]
    with pytest.raises(checks.WrongAnswer) as refused:
        CHECKS[name](json.dumps({"results": [{**first, **change}, *others]}).encode())
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"results": null}', b'{"results": []}'])
@pytest.mark.parametrize("name", CHECKS)
def test_what_is_no_answer_at_all_is_a_wrong_answer(name: str, content: bytes) -> None:
    with pytest.raises(checks.WrongAnswer):
        CHECKS[name](content)


def taken(*rows: list[float], step: int = 7) -> checks.Step:
    outputs = {"quantiles": list(rows)}
    return checks.Step.model_validate({"index": 0, "id": "a", "outputs": outputs, "state": "s", "step": step})


def test_a_retry_must_give_the_same_outputs_to_a_hundred_thousandth_of_their_size() -> None:
    first = taken([0.0, 1000.0])
    assert checks.retried(first, taken([0.009, 1000.0])).step == 7
    for other in (taken([0.011, 1000.0]), taken([0.0]), taken([0.0, 1000.0], step=8)):
        with pytest.raises(checks.WrongAnswer, match="a retry"):
            checks.retried(first, other)


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "why"}}).encode()


def test_a_refusal_says_when_to_come_back() -> None:
    assert checks.refusal(429, {"retry-after": "3"}, error("overloaded")) == ("overloaded", 3.0)
    assert checks.refusal(504, {}, error("deadline")) == ("deadline", 0.0)


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind"),
    [
        (429, "overloaded", {}, checks.WrongAnswer),
        (429, "overloaded", {"retry-after": "soon"}, checks.WrongAnswer),
        (429, "rate_limited", {"retry-after": "1"}, checks.WrongAnswer),
        (503, "draining", {"retry-after": "1"}, checks.WrongAnswer),
        (500, "internal", {}, checks.WrongAnswer),
        (410, "state_expired", {}, checks.TokenRefused),
    ],
)
def test_any_other_error_is_a_wrong_answer(
    status: int, code: str, headers: dict[str, str], kind: type[checks.WrongAnswer]
) -> None:
    with pytest.raises(checks.WrongAnswer) as refused:
        checks.refusal(status, headers, error(code))
    assert type(refused.value) is kind
