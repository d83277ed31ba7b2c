"""The measured time of a row: what runs took over what they ran."""

from __future__ import annotations

import pytest

from service.batching.pace import Pace


def test_the_first_run_makes_the_pace_known() -> None:
    pace = Pace()
    assert pace.row_s == 0
    pace.ran(2, 1.0, waited=False)
    assert pace.row_s == 0.5


def test_the_pace_follows_the_runs_and_no_run_alone_decides_it() -> None:
    pace = Pace()
    pace.ran(1, 1.0, waited=True)
    pace.ran(1, 2.0, waited=True)
    assert 1.0 < pace.row_s < 1.5
    for _ in range(100):
        pace.ran(1, 2.0, waited=True)
    assert pace.row_s == pytest.approx(2.0, rel=1e-3)


def test_rows_that_share_runs_unevenly_count_by_what_they_took_together() -> None:
    pace = Pace()
    for _ in range(200):
        pace.ran(99, 0.5, waited=True)  # short rows
        pace.ran(1, 0.5, waited=True)  # a long one
    assert pace.row_s == pytest.approx(0.01, rel=0.2)  # the mean of the runs would be 0.25


def test_a_run_for_which_nothing_waited_never_makes_the_pace_slower() -> None:
    pace = Pace()
    pace.ran(10, 1.0, waited=True)
    pace.ran(1, 1.0, waited=False)
    assert pace.row_s == pytest.approx(0.1)
    for _ in range(100):
        pace.ran(1, 0.05, waited=False)
    assert pace.row_s == pytest.approx(0.05, rel=1e-2)
