"""Series as a command reads them: of a line each, or of columns, with their times in order.

It knows sources, times and values, not forecasts. Invariant: a series that is read is as even as its frequency says:
sorted, each time once, and a null where a time has no value.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import typer

from service.cli.numbers import read_number
from service.cli.sources import Source
from service.cli.times import TimeReader, align_zones
from service.errors import CommandError

if TYPE_CHECKING:
    from service.cli.timeline import Grid

Value = float | list[float | None] | None
Duplicates = Literal["mean", "last", "sum"]
Gaps = Literal["zero", "previous", "linear"]
Filling = Gaps | Literal["never"] | None  # None: it could be asked for
SEPARATORS = re.compile(r"\s*[,;]\s*|\s+")
MISSING = {"", "na", "n/a", "nan", "null", "none"}
COMBINE: dict[Duplicates, Callable[[list[float]], float]] = {
    "mean": lambda same: math.fsum(same) / len(same),
    "last": itemgetter(-1),
    "sum": math.fsum,
}
SPARSE = 0.5  # of the places of a grid that is found must have values
MOST = 1_000_000  # places of a grid that is given: far more than any model reads
MEMBERS = {"values", "id", "start", "freq"}


@dataclass(frozen=True)
class Layout:
    """Which columns hold what, and what is done about times that are not as they should be."""

    columns: Sequence[str]
    time: str | None
    by: str | None
    freq: str | None
    day_first: bool
    duplicates: Duplicates | None
    gaps: Filling


@dataclass(frozen=True)
class Series:
    """A history, oldest first, None being a gap; `start` and `freq` where its times are known.

    `line` is where it stands, if it is all on one.
    """

    name: str | None
    place: str
    values: list[Value]
    start: str | None = None
    freq: str | None = None
    line: int | None = None

    @property
    def label(self) -> str:
        return self.name if self.name is not None else self.place


def read_numbers(text: str, place: str) -> list[float | None]:
    """Return the numbers of a line, separated by commas or white space; None where one is missing.

    Raises: CommandError for what is none.
    """
    return list(map(_reader(place), SEPARATORS.split(text.strip())))


def read_lines(source: Source, gaps: Filling) -> Iterator[Series | CommandError]:
    """Yield a series for each line: of numbers, or of JSON a list or an object with `values`; or why it is none.

    Raises: CommandError where the source cannot be read.
    """
    for line, value in source.values():
        try:
            yield _read_line(f"{source.name}, line {line}", line, value, gaps)
        except CommandError as failure:
            yield failure


def _read_line(place: str, line: int, value: Any, gaps: Filling) -> Series:
    """Raises: CommandError for a line that is no series, and for gaps that are not to be filled."""
    read = read_numbers(value, place) if isinstance(value, str) else value
    known = {"values": read} if isinstance(read, list) else read
    if not isinstance(known, dict) or not isinstance(known.get("values"), list):
        raise CommandError(f'{place}: no series; it is a list, or an object with "values", or else name a --column')
    if unknown := sorted(known.keys() - MEMBERS):
        raise CommandError(f"{place}: a series has no member {unknown[0]!r}; it may have {', '.join(sorted(MEMBERS))}")
    values = without_gaps(known["values"], gaps, f"{place}: ", "value {}".format)
    name = known.get("id")
    return Series(None if name is None else str(name), place, values, known.get("start"), known.get("freq"), line)


def read_columns(source: Source, layout: Layout) -> Iterator[Series | CommandError]:
    """Yield the series in the columns that `layout` names, each as even as its times say; or why one is none.

    A cell that is no number or no time, times that stand twice and gaps are the failure of their series alone.

    Raises: CommandError where the source cannot be read, and for a row that is of no series.
    """
    named = [*layout.columns, *filter(None, (layout.time, layout.by))]
    rows = list(source.columns(*named))
    if not rows:
        raise CommandError(f"{source.name} has no rows")
    groups: dict[Any, list[tuple[int, Sequence[Any]]]] = {}
    if layout.by is None:
        groups[None] = rows
    else:
        for line, cells in rows:
            if cells[-1] in (None, ""):
                raise CommandError(f"{source.name}, line {line}: no {layout.by!r}, which tells series apart")
            groups.setdefault(cells[-1], []).append((line, cells))
    times, found = TimeReader(layout.time or "", day_first=layout.day_first), Counter[str]()
    for key, group in groups.items():
        name = None if key is None else str(key)
        try:
            series = _Reader(source.name, name, layout, times).read(group)
        except CommandError as failure:
            yield failure
            continue
        if series.freq is not None:
            found[series.freq] += 1
        yield series
    for freq, count in found.items():
        those = f" of {count} series" if len(groups) > 1 else ""
        typer.echo(f"frequency{those}: {freq} ({'as given' if layout.freq else f'found in {layout.time}'})", err=True)


class _Reader:
    """Reads one series."""

    def __init__(self, source: str, name: str | None, layout: Layout, times: TimeReader) -> None:
        self._source, self._layout, self._times, self._name = source, layout, times, name
        self._prefix = "" if name is None else f"series {name}: "

    def read(self, rows: Sequence[tuple[int, Sequence[Any]]]) -> Series:
        place = f"series {self._name}" if self._name is not None else self._source
        values = self._values(rows)
        if self._layout.time is None:
            return Series(self._name, place, self._whole(values, lambda index: f"line {rows[index][0]}"))
        from service.cli.timeline import fill_grid, resolve_duplicates

        column = len(self._layout.columns)
        read = self._times.read
        times = align_zones([read(cells[column], f"{self._source}, line {line}") for line, cells in rows], self._prefix)
        if any(later < earlier for earlier, later in pairwise(times)):
            typer.echo(f"{self._prefix}sorted by {self._layout.time}", err=True)
            order = sorted(range(len(times)), key=times.__getitem__)
            times, values = [times[place] for place in order], [values[place] for place in order]
        try:
            how = self._layout.duplicates
            times, values = resolve_duplicates(times, values, how and partial(_combine, how))
            grid, places = self._place(times)
        except CommandError as failure:
            raise CommandError(f"{self._prefix}{failure}") from failure
        filled = fill_grid(places, values)
        filled = self._whole(filled, lambda place: grid.at(times[0], place * grid.multiple).isoformat())
        return Series(self._name, place, filled, times[0].isoformat(), grid.freq)

    def _values(self, rows: Sequence[tuple[int, Sequence[Any]]]) -> list[Value]:
        count = len(self._layout.columns)
        if count > 1:
            return [[_reader(f"{self._source}, line {line}")(cell) for cell in cells[:count]] for line, cells in rows]
        kinds = {type(cells[0]) for _, cells in rows}
        if kinds <= {int, float} or (kinds == {str} and "_" not in "".join(cells[0] for _, cells in rows)):
            try:
                values: list[Value] = [float(cells[0]) for _, cells in rows]
                if all(map(math.isfinite, values)):  # type: ignore[arg-type]
                    return values
            except ValueError:
                pass  # cell by cell, to say which
        return [_reader(f"{self._source}, line {line}")(cells[0]) for line, cells in rows]

    def _whole(self, values: list[Value], where: Callable[[int], str]) -> list[Value]:
        return without_gaps(values, self._layout.gaps, self._prefix, where)

    def _place(self, times: Sequence[datetime]) -> tuple[Grid, list[int]]:
        """Raises: CommandError where no frequency can be found, or the one given does not hold all times."""
        from service.cli.timeline import find_grid, read_grid

        if self._layout.freq is not None:
            grid = read_grid(self._layout.freq)
            places = grid.places(times)
            if places is None:
                off = next(time for time in times if grid.places([times[0], time]) is None)
                raise CommandError(f"{off.isoformat()} does not lie on {grid.freq} from {times[0].isoformat()} on")
            if places[-1] >= MOST:
                asked = f"--freq {grid.freq} makes {places[-1] + 1} times, of which {len(times)} have a value"
                raise CommandError(f"{asked}; {MOST} are the most, so name a coarser one")
            return grid, places
        if len(times) < 2:
            raise CommandError("one time has no frequency; name it with --freq")
        grid = find_grid(times)
        places = grid.places(times)
        assert places is not None
        if len(times) < SPARSE * places[-1]:
            missing = f"{places[-1] + 1 - len(times)} of {places[-1] + 1} times have no value"
            message = f"the times are hardly regular: at the coarsest frequency that holds all, {grid.freq}, {missing}"
            raise CommandError(f"{message}; name another with --freq")
        return grid, places


def without_gaps(values: list[Value], gaps: Filling, name: str, where: Callable[[int], str]) -> list[Value]:
    """Raises: CommandError for gaps, unless they are to be filled; what the service fills stays null."""
    rows = bool(values) and isinstance(values[0], list)
    missing = [index for index, value in enumerate(values) if _lacks(value)] if rows or None in values else []
    if not missing or gaps in ("previous", "linear"):
        return values
    if gaps in (None, "never"):
        first = f"{len(missing)} of {len(values)} have no value, the first at {where(missing[0])}"
        hint = (
            "fill them with --gaps zero, previous or linear" if gaps is None else "gaps are refused, so fill them first"
        )
        raise CommandError(f"{name}{first}; {hint}")
    width = next((len(value) for value in values if isinstance(value, list)), None)
    return [_zeroed(value, width) if _lacks(value) else value for value in values]


def _reader(place: str) -> Callable[[Any], float | None]:
    """Return what reads a cell at `place`: a number, or None where it is missing."""

    def read(cell: Any) -> float | None:
        if cell is None or (isinstance(cell, str) and cell.strip().lower() in MISSING):
            return None
        try:
            number = read_number(cell)
        except (ValueError, TypeError):
            raise CommandError(f"{place}: {cell!r} is no number") from None
        if math.isinf(number):
            raise CommandError(f"{place}: {cell!r} is not finite")
        return None if math.isnan(number) else number

    return read


def _lacks(value: Value) -> bool:
    return value is None or (isinstance(value, list) and None in value)


def _zeroed(value: Value, width: int | None) -> Value:
    if isinstance(value, list):
        return [0.0 if number is None else number for number in value]
    return 0.0 if width is None else [0.0] * width


def _combine(how: Duplicates, same: list[Value]) -> Value:
    """Return one value for those of one time, channel by channel; what is missing does not count."""
    if isinstance(same[0], list):
        channels = zip(*(row for row in same if isinstance(row, list)), strict=True)
        return [_combine(how, list(channel)) for channel in channels]  # type: ignore[misc]
    known = [value for value in same if isinstance(value, float)]
    return COMBINE[how](known) if known else None
