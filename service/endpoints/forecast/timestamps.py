"""The frequency of a series, in pandas' words, and the times that follow from it.

It knows the calendar, not series and not requests. Invariant: the times are those of `pandas.date_range`, and a start
that pandas would move is refused; `W`, `M`, `Q` and `Y`, which do not say where a period ends, go by the start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Literal

import numpy as np
from dateutil.relativedelta import relativedelta

from service.errors import InvalidRequest

At = Callable[[datetime, int], datetime]  # the time so many steps after a start; after 0 the start itself, if it fits

MULTIPLE = re.compile(r"([1-9][0-9]{0,8})?(.*)", re.DOTALL)
STEPS = {
    "us": timedelta(microseconds=1),
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "D": timedelta(days=1),
    "W": timedelta(weeks=1),
}
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
PERIODS = {"M": 1, "Q": 3, "Y": 12}  # in months
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
FIRST, LAST = relativedelta(day=1), relativedelta(day=31)  # of the month
EXAMPLES = "s, min, h, D, B, W, W-MON, M, ME, MS, Q, QE, QE-JAN, Y, YS and so on, or a multiple such as 15min"
EPOCH = date(1970, 1, 1)


def list_times(start: str, freq: str, steps: range) -> tuple[list[str], list[str]]:
    """Return the times that lie so many `steps` of `freq` after `start`, in ISO 8601, and warnings of how it was read.

    Raises: InvalidRequest for what is no time or no frequency, a start that does not lie on its frequency, or times
    after the year 9999.
    """
    try:
        first = datetime.fromisoformat(start)
    except ValueError:
        raise InvalidRequest(f"{start!r} is no ISO 8601 time, such as 2026-01-31T12:00", field="start") from None
    multiple, word, at = read_freq(freq)
    try:
        if at(first, 0) != first:
            following = next(time for time in (at(first, 0), at(first, 1)) if time > first)
            message = f"{start} does not lie on {word}; the next time that does is {following.isoformat()}"
            raise InvalidRequest(message, field="start")
        times = [at(first, multiple * step).isoformat() for step in steps]
    except (OverflowError, ValueError):
        raise InvalidRequest("the forecast would pass the year 9999", field="start") from None
    if word in PERIODS and first.day < 31 and first + LAST == first:
        plain = f"{word}E" if word == "M" else f"{word}E-{MONTHS[first.month - 1]}"
        return times, [f"start is the last day of its month, so {word} goes by last days; {plain} says so by itself"]
    return times, []


def read_freq(freq: str) -> tuple[int, str, At]:
    """Split a frequency into its number and its unit, and say when that is.

    Raises: InvalidRequest.
    """
    match = MULTIPLE.fullmatch(freq)
    assert match is not None
    if match[2] not in WORDS:
        raise InvalidRequest(f"{freq!r} is no frequency; use {EXAMPLES}", field="freq")
    return int(match[1] or 1), match[2], WORDS[match[2]]


def _words() -> dict[str, At]:
    words: dict[str, At] = {name: partial(_by_steps, step) for name, step in STEPS.items()}
    words |= {f"W-{name}": partial(_by_weeks, weekday) for weekday, name in enumerate(WEEKDAYS)}
    words["B"] = _by_workdays
    for letter, months in PERIODS.items():
        words[letter] = partial(_by_periods, months)
        named = {f"-{name}": month for month, name in enumerate(MONTHS, start=1)} if months > 1 else {}
        for letter_edge, edge, month in ((f"{letter}S", FIRST, 1), (f"{letter}E", LAST, 12)):
            for ending, anchor in {"": month, **named}.items():
                words[letter_edge + ending] = partial(_by_edges, months, anchor, edge)
                words["B" + letter_edge + ending] = partial(_by_business_edges, months, anchor, edge)
    return words


def _by_steps(step: timedelta, start: datetime, count: int) -> datetime:
    return start + count * step


def _by_weeks(weekday: int, start: datetime, count: int) -> datetime:
    return start + timedelta(days=(weekday - start.weekday()) % 7, weeks=count)


def _by_workdays(start: datetime, count: int) -> datetime:
    return _workday(start, count, "forward")


def _by_periods(months: int, start: datetime, count: int) -> datetime:
    then = start + relativedelta(months=months * count)
    return then + LAST if start + LAST == start else then


def _by_edges(months: int, month: int, edge: relativedelta, start: datetime, count: int) -> datetime:
    return start + relativedelta(months=(month - start.month) % months + months * count) + edge


def _by_business_edges(months: int, month: int, edge: relativedelta, start: datetime, count: int) -> datetime:
    return _workday(_by_edges(months, month, edge, start, count), 0, "forward" if edge is FIRST else "backward")


def _workday(start: datetime, count: int, roll: Literal["forward", "backward"]) -> datetime:
    """Return the time that lies `count` workdays after `start`, which is first rolled to a workday."""
    day = np.busday_offset(np.datetime64(start.date()), count, roll=roll)
    return datetime.combine(EPOCH + timedelta(days=int(day.astype(int))), start.timetz())


WORDS = _words()
