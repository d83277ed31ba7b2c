"""Frequencies that are found in times, on the service's own calendar."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.timeline import fill_grid, find_grid, read_grid, resolve_duplicates
from service.endpoints.forecast.timestamps import WORDS, list_times
from service.errors import CommandError, InvalidRequest

STARTS = st.datetimes(datetime(1970, 1, 1), datetime(2060, 1, 1)).map(lambda time: time.replace(microsecond=0))


@st.composite
def drawn_times(draw: st.DrawFn) -> tuple[str, list[datetime]]:
    """A frequency that the service takes, and times on it, of which some are missing."""
    word, multiple = draw(st.sampled_from(sorted(WORDS))), draw(st.integers(1, 20))
    start = draw(STARTS)
    start = WORDS[word](start, 0)
    freq = word if multiple == 1 else f"{multiple}{word}"
    kept = sorted(draw(st.sets(st.integers(1, 30), min_size=1, max_size=20)))
    times, _ = list_times(start.isoformat(), freq, range(31))
    return freq, [datetime.fromisoformat(times[place]) for place in (0, *kept)]


@given(drawn_times())
def test_times_of_any_frequency_are_found_on_it_or_on_a_coarser_grid(drawn: tuple[str, list[datetime]]) -> None:
    freq, times = drawn
    found = find_grid(times)
    places, true_places = found.places(times), read_grid(freq).places(times)
    assert places is not None
    assert true_places is not None
    assert places[-1] <= true_places[-1]
    assert places == sorted(set(places))


@given(drawn_times())
def test_the_service_lists_the_times_of_the_frequency_that_was_found(drawn: tuple[str, list[datetime]]) -> None:
    _, times = drawn
    found = find_grid(times)
    places = found.places(times)
    assert places is not None
    listed, _ = list_times(times[0].isoformat(), found.freq, range(places[-1] + 1))
    assert [listed[place] for place in places] == [time.isoformat() for time in times]


@given(drawn_times(), st.data())
def test_a_word_s_grid_holds_the_times_that_the_service_lists(
    drawn: tuple[str, list[datetime]], data: st.DataObject
) -> None:
    freq, times = drawn
    places = read_grid(freq).places(times)
    assert places is not None
    rows = fill_grid(places, times)
    assert [row for row in rows if row is not None] == times
    assert [place for place, row in enumerate(rows) if row is not None] == places


@pytest.mark.parametrize(
    ("freq", "start", "count"),
    [
        ("MS", "2026-01-01", 5),
        ("ME", "2026-01-31", 5),
        ("QS-FEB", "2026-02-01", 4),
        ("YE-MAR", "2020-03-31", 4),
        ("2YS-JAN", "2000-01-01", 4),
        ("BME", "2026-01-30", 12),
        ("M", "2026-01-15", 5),
        ("W-WED", "2026-01-07", 5),
        ("2W-SUN", "2026-01-04", 5),
        ("B", "2026-01-01", 9),
        ("D", "2026-01-01", 9),
        ("15min", "2026-01-01T08:15", 9),
        ("h", "2026-01-01T08:15", 9),
        ("250ms", "2026-01-01T08:15", 9),
    ],
)
def test_plain_times_have_the_frequency_that_people_would_name(freq: str, start: str, count: int) -> None:
    times, _ = list_times(start, freq, range(count))
    assert find_grid([datetime.fromisoformat(time) for time in times]).freq == freq


def test_of_grids_that_fit_alike_days_come_before_workdays() -> None:
    monday = datetime(2026, 1, 5)
    assert find_grid([monday + timedelta(days=day) for day in range(5)]).freq == "D"
    assert find_grid([monday + timedelta(days=day) for day in (0, 1, 2, 3, 4, 7, 8)]).freq == "B"


def test_what_is_no_frequency_is_refused_with_examples() -> None:
    with pytest.raises(CommandError, match="'fortnight' is no frequency; use s, min, h, D"):
        read_grid("fortnight")
    with pytest.raises(InvalidRequest):
        list_times("2026-01-01", "fortnight", range(1))


@given(st.lists(st.integers(0, 9), min_size=1))
def test_duplicates_are_combined_or_refused(days: list[int]) -> None:
    times = [datetime(2026, 1, 1) + timedelta(days=day) for day in sorted(days)]
    rows = [float(place) for place in range(len(times))]
    combined_times, combined = resolve_duplicates(times, rows, sum)
    assert combined_times == sorted(set(times))
    assert sum(combined) == sum(rows)
    if len(set(times)) == len(times):
        assert resolve_duplicates(times, rows, None) == (times, rows)
    else:
        with pytest.raises(CommandError, match=r"stands \d+ times"):
            resolve_duplicates(times, rows, None)
