"""Times of a series: their frequency on the service's own calendar, duplicates and gaps.

It knows times and values, not where they come from or what is forecast. Invariant: a frequency that is found holds
every time, as `service.endpoints.forecast.timestamps` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TypeVar

import numpy as np

from service.endpoints.forecast.timestamps import FIRST, LAST, MONTHS, STEPS, WEEKDAYS, At, read_freq
from service.errors import CommandError, InvalidRequest

V = TypeVar("V")
US = timedelta(microseconds=1)
UNITS = {name: step for name, step in reversed(STEPS.items()) if name != "W"}  # the largest first


@dataclass(frozen=True)
class Grid:
    """Times `freq` apart from a first one on; `at` counts in units, `multiple` of which are one step."""

    freq: str
    at: At
    multiple: int
    index: Callable[[datetime, datetime], int]

    def places(self, times: Sequence[datetime]) -> list[int] | None:
        """Return the place of each time, the first being 0, or None where one is off the grid."""
        first = times[0]
        found = []
        for time in times:
            units = self.index(first, time)
            if units % self.multiple or self.at(first, units) != time:
                return None
            found.append(units // self.multiple)
        return found


def find_grid(times: Sequence[datetime]) -> Grid:
    """Return the coarsest grid that holds `times`, at least two, rising: the one with the fewest places.

    Of grids with as many the one of months comes before that of weeks and days, and this before that of workdays.
    """
    fitting = [
        (places[-1], rank, grid) for rank, grid in enumerate(_candidates(times)) if (places := grid.places(times))
    ]
    return min(fitting, key=lambda entry: entry[:2])[2]


def read_grid(freq: str) -> Grid:
    """Return the grid of a frequency in the service's words.

    Raises: CommandError for what is none.
    """
    try:
        multiple, word, at = read_freq(freq)
    except InvalidRequest as error:
        raise CommandError(f"--freq: {error.message}") from error
    return Grid(freq, at, multiple, _index_of(word))


def _candidates(times: Sequence[datetime]) -> Iterator[Grid]:
    """Yield grids that may hold the times, each with the largest multiple that does."""
    first = times[0]
    for word in _month_words(first):
        at, index = read_freq(word)[2], _index_of(word)
        months = math.gcd(*(index(first, time) for time in times))
        if months:
            yield Grid(_named(word, months, first.month), at, months, index)
    step = timedelta(microseconds=math.gcd(*((time - first) // US for time in times)))
    unit, size = next((name, size) for name, size in UNITS.items() if not step % size)
    count = step // size
    if unit == "D" and count % 7 == 0:
        unit, count = f"W-{WEEKDAYS[first.weekday()]}", count // 7
    yield Grid(_counted(count, unit), read_freq(unit)[2], count, _index_of(unit))
    if first.weekday() < 5:
        index = _index_of("B")
        if days := math.gcd(*(index(first, time) for time in times)):
            yield Grid(_counted(days, "B"), read_freq("B")[2], days, index)


def _month_words(first: datetime) -> Iterator[str]:
    """Yield the words of months on which `first` lies: by their first and last days and workdays, then by its own."""
    yield from (word for word in ("MS", "ME", "BMS", "BME") if read_freq(word)[2](first, 0) == first)
    if first + LAST != first and first + FIRST != first:
        yield "M"


def _named(word: str, months: int, month: int) -> str:
    """Return the frequency of so many `months` in the longest word: 24 of MS are 2YS-JAN."""
    for letter, length in (("Y", 12), ("Q", 3)):
        if months % length == 0:
            anchor = f"-{MONTHS[month - 1]}" if word != "M" else ""
            return _counted(months // length, word.replace("M", letter) + anchor)
    return _counted(months, word)


def _counted(count: int, word: str) -> str:
    return word if count == 1 else f"{count}{word}"


@cache
def _index_of(word: str) -> Callable[[datetime, datetime], int]:
    """Return what counts the units of `word` from one time to another that may lie on its grid."""
    unit = word.split("-")[0]
    if unit == "B":
        return _workdays
    if unit in STEPS:
        size = STEPS[unit]
        return lambda first, time: (time - first) // size
    months = {"M": 1, "Q": 3, "Y": 12}[unit.removeprefix("B")[0]]
    return lambda first, time: ((time.year - first.year) * 12 + time.month - first.month) // months


def _workdays(first: datetime, time: datetime) -> int:
    return int(np.busday_count(first.date(), time.date()))


def resolve_duplicates(
    times: Sequence[datetime], rows: Sequence[V], combine: Callable[[list[V]], V] | None
) -> tuple[list[datetime], list[V]]:
    """Return each of the rising `times` once, with its row, or what `combine` makes of its rows.

    Raises: CommandError naming the first time that stands twice, unless there is a way to combine.
    """
    grouped: dict[datetime, list[V]] = {}
    for time, row in zip(times, rows, strict=True):
        grouped.setdefault(time, []).append(row)
    double = next((time for time, same in grouped.items() if len(same) > 1), None)
    if double is not None and combine is None:
        message = f"{double.isoformat()} stands {len(grouped[double])} times; name what tells series apart with --by"
        raise CommandError(f"{message}, or combine with --duplicates mean, last or sum")
    return list(grouped), [same[0] if combine is None else combine(same) for same in grouped.values()]


def fill_grid(places: Sequence[int], rows: Sequence[V]) -> list[V | None]:
    """Return a row for each place from the first to the last, None where there is none."""
    filled: list[V | None] = [None] * (places[-1] + 1)
    for place, row in zip(places, rows, strict=True):
        filled[place] = row
    return filled
