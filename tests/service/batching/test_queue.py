"""Which rows run next: turns, fair order, like lengths, and the price of padding."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.queue import WINDOW, RowQueue


@dataclass(eq=False)
class Sequence:
    size: int
    name: str = ""
    left: bool = False


def queue(batch_cells: int = 1000, overhead_rows: float = 1.0, *, same_size: bool = False) -> RowQueue[Sequence]:
    rows: RowQueue[Sequence] = RowQueue(batch_cells=batch_cells, same_size=same_size, gone=lambda row: row.left)
    rows.overhead_rows = overhead_rows
    return rows


def sequences(*sizes: int, name: str = "") -> list[Sequence]:
    return [Sequence(size, name) for size in sizes]


def test_rows_of_one_size_run_first_come_first_served() -> None:
    rows = queue(batch_cells=20)
    rows.add(sequences(10, 10, 10, name="first"), now=0, pace_s=0, tenant="anna")
    rows.add(sequences(10, name="second"), now=1, pace_s=0, tenant="anna")
    assert [[row.name for row in rows.take()] for _ in range(2)] == [["first", "first"], ["first", "second"]]
    assert not rows
    assert rows.take() == []


def test_the_most_overdue_row_always_runs_with_those_like_it() -> None:
    rows = queue()
    rows.add(sequences(100), now=0, pace_s=0, tenant="anna")
    rows.add(sequences(10, 11, 95), now=1, pace_s=0, tenant="anna")
    assert [sorted(row.size for row in rows.take()) for _ in range(2)] == [[95, 100], [10, 11]]


@pytest.mark.parametrize(("overhead_rows", "together"), [(0.01, [10, 10]), (100.0, [10, 10, 14])])
def test_padding_is_paid_only_where_it_costs_less_than_another_run(overhead_rows: float, together: list[int]) -> None:
    rows = queue(overhead_rows=overhead_rows)
    rows.add(sequences(10, 10, 14), now=0, pace_s=0, tenant="anna")
    assert [row.size for row in rows.take()] == together


def test_rows_of_unequal_size_never_share_a_run_when_they_may_not() -> None:
    rows = queue(overhead_rows=100, same_size=True)
    rows.add(sequences(3, 5, 3, 5), now=0, pace_s=0, tenant="anna")
    assert [[row.size for row in rows.take()] for _ in range(2)] == [[3, 3], [5, 5]]


def test_a_row_longer_than_the_budget_runs_alone() -> None:
    rows = queue(batch_cells=50, overhead_rows=100)
    rows.add(sequences(70, 1, 70), now=0, pace_s=0, tenant="anna")
    assert [[row.size for row in rows.take()] for _ in range(3)] == [[70], [1], [70]]


def test_a_late_single_row_waits_for_one_run_of_a_large_request_and_not_for_all() -> None:
    rows = queue(batch_cells=40)
    rows.add(sequences(*[10] * 400, name="large"), now=0.0, pace_s=0.1, tenant="anna")
    assert {row.name for row in rows.take()} == {"large"}
    rows.add(sequences(30, name="single"), now=0.4, pace_s=0.1, tenant="anna")
    runs = [rows.take() for _ in range(2)]
    assert "single" in {row.name for run in runs for row in run}


def test_two_large_requests_share_the_runs() -> None:
    rows = queue(batch_cells=40)
    for name in "ab":
        rows.add(sequences(*[10] * 100, name=name), now=0.0, pace_s=0.1, tenant="anna")
    served = [row.name for _ in range(10) for row in rows.take()]
    assert served.count("a") == served.count("b") == 20


def test_a_large_request_is_not_starved_by_a_stream_of_single_rows_unlike_it() -> None:
    rows = queue(batch_cells=40)
    rows.add(sequences(*[40] * 10, name="large"), now=0.0, pace_s=0.1, tenant="anna")
    served = []
    for turn in range(40):  # a single row comes with each run, and each run takes as long as the pace says
        rows.add(sequences(1, name="single"), now=0.1 * turn, pace_s=0.1, tenant="anna")
        served += [row.name for row in rows.take()]
    assert served.count("large") == 10


def test_tenants_have_turns_however_much_one_has_queued() -> None:
    rows = queue(batch_cells=40)
    rows.add(sequences(*[10] * 100, name="flood"), now=0.0, pace_s=0, tenant="anna")
    for _ in range(3):
        rows.take()
    rows.add(sequences(*[10] * 12, name="late"), now=1.0, pace_s=0, tenant="berta")
    runs = [[row.name for row in rows.take()] for _ in range(6)]
    assert runs == [["late"] * 4, ["flood"] * 4] * 3 or runs == [["flood"] * 4, ["late"] * 4] * 3


def test_turns_count_cells_so_that_long_rows_buy_no_more_than_short_ones() -> None:
    rows = queue(batch_cells=40, same_size=True)
    rows.add(sequences(*[40] * 50, name="long"), now=0.0, pace_s=0, tenant="anna")
    rows.add(sequences(*[1] * 400, name="short"), now=0.0, pace_s=0, tenant="berta")
    served = [row for _ in range(20) for row in rows.take()]
    cells = [sum(row.size for row in served if row.name == name) for name in ("long", "short")]
    assert cells == [400, 400]


def test_a_turn_is_shared_with_rows_of_others_that_are_like_it() -> None:
    rows = queue()
    rows.add(sequences(10, 10, name="a"), now=0.0, pace_s=0, tenant="anna")
    rows.add(sequences(10, 10, name="b"), now=0.0, pace_s=0, tenant="berta")
    assert [row.name for row in rows.take()] == ["a", "a", "b", "b"]
    assert not rows


def test_who_had_nothing_queued_for_long_is_owed_no_more_than_others() -> None:
    rows = queue(batch_cells=10)
    rows.add(sequences(*[10] * 100, name="a"), now=0.0, pace_s=0, tenant="anna")
    for _ in range(50):
        rows.take()
    rows.add(sequences(*[10] * 100, name="b"), now=1.0, pace_s=0, tenant="berta")
    served = [row.name for _ in range(20) for row in rows.take()]
    assert served.count("a") == served.count("b") == 10


def test_rows_that_are_gone_are_dropped() -> None:
    rows = queue()
    few = sequences(10, 10, 10)
    rows.add(few, now=0, pace_s=0, tenant="anna")
    few[0].left = few[1].left = True
    assert rows.take() == [few[2]]


@given(
    requests=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=200), min_size=1, max_size=6),
    batch_cells=st.integers(1, 500),
    overhead_rows=st.floats(0, 50),
    same_size=st.booleans(),
    tenants=st.integers(1, 3),
)
def test_every_row_runs_once_and_no_run_breaks_its_bounds(
    requests: list[list[int]], batch_cells: int, overhead_rows: float, same_size: bool, tenants: int
) -> None:
    rows = queue(batch_cells, overhead_rows, same_size=same_size)
    added = [sequences(*sizes) for sizes in requests]
    for number, request in enumerate(added):
        rows.add(request, now=number, pace_s=0.5, tenant=str(number % tenants))
    served: list[Sequence] = []
    while rows:
        run = rows.take()
        longest = max(row.size for row in run)
        assert len(run) <= WINDOW
        assert len(run) == 1 or len(run) * longest <= batch_cells
        assert not same_size or {row.size for row in run} == {longest}
        served += run
    assert {id(row) for row in served} == {id(row) for request in added for row in request}
    assert len(served) == sum(map(len, added))
