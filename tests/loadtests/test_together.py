"""Limits on every core: a loop of its own for each, and an error of any of them is the measurement's."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from loadtests.floors import Limit, sentiment_limit
from loadtests.requirements import BenchError
from loadtests.together import on_every_core


class Counting(Limit):
    """Does nothing; tells its process and how often it advanced."""

    def __init__(self) -> None:
        self._advanced = 0

    def advance(self) -> int:
        self._advanced += 1
        return 1

    def facts(self) -> dict[str, float]:
        return {"process": os.getpid(), "advanced": self._advanced}


def test_a_limit_runs_in_a_process_for_each_core_and_the_rates_are_added_up() -> None:
    with on_every_core(Counting) as team:
        rates = [team.rate(0.2) for _ in range(2)]
        facts = team.facts
    assert len({fact["process"] for fact in facts} - {os.getpid()}) == len(os.sched_getaffinity(0))
    assert all(fact["advanced"] > 0 for fact in facts)
    # Nothing counts twice: two rounds of 0.2 s cannot have more than was advanced in them.
    assert 0 < sum(rates) * 0.2 <= sum(fact["advanced"] for fact in facts)


def test_a_limit_that_cannot_be_made_ends_the_measurement(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match="its error stands above"),
        on_every_core(partial(sentiment_limit, tmp_path, [])),
    ):
        pass
