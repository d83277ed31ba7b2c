"""Steps as people write them: a line is one, a number, a row of numbers, or a text.

It knows lines and what a session takes, not what is answered.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from service.cli.numbers import read_number
from service.cli.session import Session, Step
from service.cli.sources import read_header
from service.errors import CommandError

LineKind = Literal["text", "csv", "jsonl"]
SEPARATORS = re.compile(r"\s*[,;]\s*|\s+")


class BadLine(CommandError):
    """A line that is no step."""


def read_step(session: Session, cells: Sequence[Any]) -> Step:
    """Return the step that `cells` hold.

    Raises: BadLine.
    """
    if session.member == "text":
        if len(cells) != 1 or not isinstance(cells[0], str):
            raise BadLine(f"{session.model} takes a text, not {list(cells)!r}")
        return cells[0]
    numbers = [_read_number(cell) for cell in cells]
    wanted = session.features or 1
    if len(numbers) != wanted:
        raise BadLine(f"{len(numbers)} numbers; {session.model} takes {wanted} in a step")
    return numbers if session.features is not None else numbers[0]


def _read_number(cell: Any) -> float:
    try:
        number = read_number(cell)
    except (ValueError, TypeError):
        raise BadLine(f"{cell!r} is no number") from None
    if not math.isfinite(number):
        raise BadLine(f"{cell!r} is not finite")
    return number


class LineReader:
    """Reads lines of a kind; of CSV the first is the `header`, unless it is known.

    `columns` hold the step, `time` its time, where lines have columns.
    """

    def __init__(
        self, session: Session, kind: LineKind, columns: Sequence[str], time: str | None, header: str | None
    ) -> None:
        """Raises: CommandError for columns of lines that have none, too few of them, or that the header lacks."""
        if kind == "text" and (columns or time):
            raise CommandError("--column and --time need lines that have columns: --format csv or jsonl")
        if kind == "csv" and not columns:
            raise CommandError("name the column that holds the values with --column")
        self._session, self._kind, self._columns, self._time = session, kind, columns, time
        self._first, self._names, self._delimiter = True, list[str](), ""
        self.header = header
        if kind == "csv" and header is not None:
            self._take_header(header)

    def read(self, line: bytes) -> tuple[Step, Any] | None:
        """Return the step and its time, None where lines have no time; nothing for a header or an empty line.

        Raises: BadLine; CommandError for a header that will not do.
        """
        first, self._first = self._first, False
        try:
            text = line.decode("utf-8-sig" if first else "utf-8")
        except UnicodeDecodeError as failure:
            raise BadLine(f"not in UTF-8 ({failure.reason})") from failure
        if self._kind == "text":
            return self._read_text(text)
        if not text.strip():
            return None
        if self._kind == "csv":
            return self._read_csv(text, first)
        try:
            value = json.loads(text)
        except ValueError as failure:
            raise BadLine(f"no JSON: {failure}") from failure
        if self._columns:
            return self._pick(value)
        return read_step(self._session, value if isinstance(value, list) else [value]), None

    def _read_text(self, text: str) -> tuple[Step, Any] | None:
        if self._session.member == "text":
            return text, None
        stripped = text.strip()
        return (read_step(self._session, SEPARATORS.split(stripped)), None) if stripped else None

    def _read_csv(self, text: str, first: bool) -> tuple[Step, Any] | None:
        if self.header is None:
            self._take_header(text)
            self.header = text
            return None
        if first and text.strip() == self.header.strip():
            raise CommandError("the header again: what was taken before comes once more; see --file, or --fresh")
        try:
            (cells,) = csv.reader([text], delimiter=self._delimiter, strict=True)
        except csv.Error as failure:
            raise BadLine(f"no CSV: {failure}") from failure
        if len(cells) != len(self._names):
            raise BadLine(f"{len(cells)} cells, where the header has {len(self._names)}")
        return self._pick(dict(zip(self._names, cells, strict=True)))

    def _take_header(self, header: str) -> None:
        self._names, self._delimiter = read_header(header)
        for name in filter(None, (*self._columns, self._time)):
            count = self._names.count(name)
            if count != 1:
                what = f"{count} columns" if count else "no column"
                raise CommandError(f"the header has {what} {name!r}; it has {', '.join(self._names)}")

    def _pick(self, record: Any) -> tuple[Step, Any]:
        try:
            return read_step(self._session, [record[name] for name in self._columns]), self._time and record[self._time]
        except (KeyError, TypeError) as failure:
            raise BadLine(f"no column {failure}" if isinstance(record, dict) else "no object") from None
