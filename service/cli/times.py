"""Times as people write them.

It knows texts and calendars, not series. Invariant: one way to read holds for all that a reader reads, and a way that
was chosen is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any

import typer

from service.errors import CommandError

NUMBERED = re.compile(r"(?<![\d/.:-])(\d{1,2})([/. -])(\d{1,2})\2(\d{2,4})(?![\d:])")
YEAR_FIRST = re.compile(r"(?<!\d)\d{4}[/. -](\d{1,2})[/. -]\d{1,2}(?!\d)")
NO_YEAR = datetime(1, 1, 1)


class TimeReader:
    """Reads times; those that are not ISO 8601 by their words, or by their numbers in one order."""

    def __init__(self, name: str, *, day_first: bool) -> None:
        self._name, self._day_first, self._said = name, day_first, False
        self._known: dict[Any, datetime] = {}

    def read(self, given: Any, place: str) -> datetime:
        """Raises: CommandError for what is no time."""
        found = self._known.get(given)
        if found is None:
            found = self._known[given] = self._parse(given, place)
        return found

    def _parse(self, given: Any, place: str) -> datetime:
        if isinstance(given, datetime):
            return given.replace(fold=0)
        if isinstance(given, date):
            return datetime.combine(given, time())
        if not isinstance(given, str):
            raise CommandError(f"{place}: {given!r} is no time; {self._name} must hold texts, dates or timestamps")
        try:
            return datetime.fromisoformat(given.strip())
        except ValueError:
            return self._parse_freely(given, place)

    def _parse_freely(self, given: str, place: str) -> datetime:
        from dateutil.parser import parse

        if (dated := YEAR_FIRST.search(given)) and int(dated[1]) > 12:
            raise CommandError(f"{place}: {given!r} has no month {dated[1]}")
        if numbered := NUMBERED.search(given):  # where the year stands first the month follows, whatever the order
            if len(numbered[4]) < 4:
                raise CommandError(f"{place}: {given!r} has a year of two digits, if any; write all four")
            month = int(numbered[3 if self._day_first else 1])
            if month > 12:
                other = "without --day-first" if self._day_first else "with --day-first"
                raise CommandError(f"{place}: {given!r} has no month {month}; read it {other}")
        try:
            found = parse(given, default=NO_YEAR, dayfirst=self._day_first and bool(numbered), tzinfos=_read_zone)
        except _NamedZone as failure:
            raise CommandError(f"{place}: {given!r} has a zone by name; write its offset, as +01:00") from failure
        except (ValueError, ArithmeticError) as failure:  # the first is that of dateutil, too; Decimal has the second
            raise CommandError(f"{place}: {given!r} is no time, such as 2026-01-31 or 2026-01-31T12:00") from failure
        if found.year == NO_YEAR.year:
            raise CommandError(f"{place}: {given!r} has no year")
        if not self._said:
            self._said = True
            other = "; --day-first reads the day first" if numbered and not self._day_first else ""
            typer.echo(f"{self._name}: times such as {given} are read as {found.isoformat()}{other}", err=True)
        return found


class _NamedZone(Exception):
    """A time zone whose name does not tell its offset from UTC."""


def _read_zone(name: str | None, offset_s: int | None) -> tzinfo | None:
    """Raises: _NamedZone, for names mean one thing here and another there."""
    if offset_s is not None:
        return timezone(timedelta(seconds=offset_s))
    if name is not None:
        raise _NamedZone(name)
    return None


def align_zones(times: Sequence[datetime], series: str) -> Sequence[datetime]:
    """Return `times` in one time zone: their own, or UTC where they differ.

    Raises: CommandError where some have none.
    """
    offsets = {time.utcoffset() for time in times}
    if len(offsets) == 1:
        return times
    if None in offsets:
        raise CommandError(f"{series}some times have an offset from UTC, and some have none")
    try:
        return [time.astimezone(UTC) for time in times]
    except OverflowError as failure:
        raise CommandError(f"{series}a time is before the year 1, or after 9999, in UTC") from failure
