"""Which outcomes of a load test breach which threshold."""

from __future__ import annotations

from argparse import Namespace

import pytest

from loadtests.options import OPTIONS
from loadtests.verdict import Line, Sessions, verdict


def limits(**changes: float) -> Namespace:
    return Namespace(**{option.name: option.default for option in OPTIONS} | changes)


def line(answered: int = 90, failed: int = 0, overloaded: int = 0, deadline: int = 0, p95_ms: float = 100) -> Line:
    return Line("stream", answered, failed, {"overloaded": overloaded, "deadline": deadline}, p95_ms)


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [
        (line(), {}),
        (line(p95_ms=500), {}),
        (line(failed=10), {"max_failures": 0.1}),
        (line(overloaded=6, deadline=4), {"max_refused": 0.1, "min_refused": 10}),
        (line(answered=0), {"min_requests": 0}),
    ],
)
def test_a_threshold_that_is_just_kept_is_no_breach(outcome: Line, changes: dict[str, float]) -> None:
    assert verdict([outcome], Sessions(), 0, limits(**changes)) == []


@pytest.mark.parametrize(
    ("outcome", "changes", "breach"),
    [
        (line(failed=10), {"max_failures": 0.09}, "stream: 10 of 100 requests failed (--max-failures)"),
        (line(failed=1), {}, "stream: 1 of 91 requests failed (--max-failures)"),
        (line(overloaded=6, deadline=4), {}, "stream: 10 of 100 requests were refused (--max-refused)"),
        (line(p95_ms=501), {}, "stream: p95 501 ms, at most 500 wanted (--stream-p95-ms)"),
        (line(answered=0), {}, "stream: 0 requests answered, 1 wanted (--min-requests)"),
        (line(), {"min_refused": 1}, "all: 0 requests refused, 1 wanted: more --users (--min-refused)"),
    ],
)
def test_a_threshold_that_is_not_kept_is_named_with_its_option(
    outcome: Line, changes: dict[str, float], breach: str
) -> None:
    assert verdict([outcome], Sessions(), 0, limits(**changes)) == [breach]


def test_a_lost_session_or_a_broken_load_test_fails_any_run() -> None:
    assert verdict([line()], Sessions(begun=3, lost=2), 0, limits()) == ["stream: 2 sessions lost"]
    assert verdict([line()], Sessions(), 3, limits()) == [
        "the load test itself failed 3 times; locust's exceptions say where"
    ]
