"""What a command reads: lines of text, JSON lines, CSV and Parquet, from a file or from stdin.

It knows files and their forms, not what is in them. Invariant: all that is read has a place, its line, by which a
mistake in it can be named.
"""

from __future__ import annotations

import csv
import gc
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

import typer

from service.errors import CommandError

Kind = Literal["text", "csv", "jsonl", "parquet"]
ENDINGS: dict[str, Kind] = {".txt": "text", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
STDIN = "-"
DELIMITERS = ",;\t"


class Source:
    """A file, or stdin, of a kind; `name` is for messages."""

    def __init__(self, path: str, kind: Kind | None) -> None:
        """Raises: CommandError when the file is not there, or its ending says nothing of its kind."""
        self._path, self.name = path, "stdin" if path == STDIN else path
        if path != STDIN and not Path(path).is_file():
            raise CommandError(f"{path} is no file")
        found = kind or ("text" if path == STDIN else ENDINGS.get(Path(path).suffix.lower()))
        if found is None:
            raise CommandError(f"{path}: what is in it? Say it with --format: {', '.join(get_args(Kind))}")
        self.kind: Kind = found

    @cached_property
    def _piped(self) -> bytes:
        return _read_stdin()

    @property
    def has_columns(self) -> bool:
        return self.kind in ("csv", "parquet")

    def values(self) -> Iterator[tuple[int, Any]]:
        """Yield each line that is not empty, with its number: a text, or of JSON lines the value.

        Raises: CommandError for a line that is not JSON, or not UTF-8.
        """
        with self._text() as text:
            for number, line in enumerate(text, start=1):
                if stripped := line.strip():
                    yield number, self._parse(number, stripped) if self.kind == "jsonl" else stripped

    def _parse(self, number: int, line: str) -> Any:
        try:
            return json.loads(line)
        except ValueError as failure:
            raise CommandError(f"{self.name}, line {number}: no JSON: {failure}") from failure

    def columns(self, *names: str) -> Iterable[tuple[int, Sequence[Any]]]:
        """Return the cells of the columns `names`, with the number of the line or the row.

        Raises: CommandError for a column that is not there, and as `values` does.
        """
        if self.kind == "text":
            raise CommandError(f"{self.name} is read as lines of text, which have no column {names[0]!r}; see --format")
        read = {"csv": self._csv, "parquet": self._parquet, "jsonl": self._objects}[self.kind]
        return read(names)

    def only_column(self) -> str:
        """Return the name of the only column.

        Raises: CommandError when there are several.
        """
        if self.kind == "csv":
            with self._text() as text:
                names = read_header(text.readline())[0]
        else:
            names = self._table().schema.names
        if not any(names):
            raise CommandError(f"{self.name} is empty")
        if len(names) != 1:
            raise CommandError(f"{self.name} has several columns; name one with --column: {', '.join(names)}")
        return names[0]

    def _csv(self, names: Sequence[str]) -> Iterable[tuple[int, Sequence[Any]]]:
        with self._text() as text:
            header, delimiter = read_header(text.readline())
            if delimiter != DELIMITERS[0]:
                typer.echo(f"{self.name}: columns are separated by {_NAMED[delimiter]}", err=True)
            places = self._find(header, names)
            read, pick = csv.reader(text, delimiter=delimiter, strict=True), _picker(places)
            try:
                rows = [(read.line_num + 1, row) for row in read if row]
            except csv.Error as failure:
                raise CommandError(f"{self.name}, line {read.line_num + 1}: {failure}") from failure
            for line, row in rows:
                if len(row) != len(header):
                    raise CommandError(
                        f"{self.name}, line {line}: {len(row)} cells, where the header has {len(header)}"
                    )
        return [(line, pick(row)) for line, row in rows]

    def _parquet(self, names: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        table = self._table()
        self._find(table.schema.names, names)
        columns = [table.column(name).to_pylist() for name in names]
        return enumerate(zip(*columns, strict=True), start=1)

    def _objects(self, names: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        for number, value in self.values():
            if not isinstance(value, dict):
                raise CommandError(f"{self.name}, line {number}: no object, and so without a member {names[0]!r}")
            self._find(list(value), names, f", line {number}")
            yield number, [value[name] for name in names]

    def _find(self, there: Sequence[str], names: Sequence[str], place: str = "") -> list[int]:
        if not any(there):
            raise CommandError(f"{self.name}{place} is empty")
        for name in names:
            if there.count(name) > 1:
                raise CommandError(f"{self.name} has {there.count(name)} columns {name!r}; give each a name of its own")
            if name not in there:
                raise CommandError(f"{self.name}{place} has no column {name!r}; it has {', '.join(there)}")
        return [there.index(name) for name in names]

    def _table(self) -> Any:
        arrow = import_arrow()
        try:
            return arrow.parquet.read_table(io.BytesIO(self._piped) if self._path == STDIN else self._path)
        except (OSError, ValueError) as failure:  # what pyarrow raises is of these
            raise CommandError(f"{self.name} cannot be read as Parquet: {failure}") from failure

    @contextmanager
    def _text(self) -> Iterator[TextIO]:
        try:
            source = io.BytesIO(self._piped) if self._path == STDIN else open(self._path, "rb")  # noqa: SIM115
            with io.TextIOWrapper(source, encoding="utf-8-sig", newline="") as text:
                yield text
        except UnicodeDecodeError as failure:
            raise CommandError(f"{self.name} is not in UTF-8 ({failure}); convert it first") from failure
        except OSError as failure:
            raise CommandError(f"{self.name} cannot be read: {failure.strerror}") from failure


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise CommandError("stdin is closed; pipe something in, or name a file")
    return sys.stdin.buffer.read()


def read_text(given: str, place: str) -> str:
    """Return the text that an argument is, or all of stdin. Raises: CommandError for what is not in UTF-8."""
    if given != STDIN:
        return check_text(given, place)
    try:
        return _read_stdin().decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise CommandError(f"stdin is not in UTF-8 ({failure}); convert it first") from failure


def check_text(given: str, place: str) -> str:
    """Return a text unchanged. Raises: CommandError where it holds what UTF-8 cannot, as a byte that Python kept."""
    try:
        given.encode()
    except UnicodeEncodeError as failure:
        raise CommandError(f"{place} is not in UTF-8 ({failure.reason}); convert it first") from failure
    return given


_NAMED = {";": "semicolons", "\t": "tabs"}


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what takes the cells at `places` of a row."""
    if len(places) > 1:
        return itemgetter(*places)  # far faster than to look up one by one
    return lambda row: (row[places[0]],)


def read_header(line: str) -> tuple[list[str], str]:
    """Return the cells of the first line, and what separates them: what gives the most of them."""
    read = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in DELIMITERS}
    delimiter = max(read, key=lambda each: len(read[each]))
    return [cell.strip() for cell in read[delimiter]], delimiter


@contextmanager
def many_objects() -> Iterator[None]:
    """Let the garbage collector rest while many objects are made that all stay: it would take half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_piped() -> bool:
    """Return whether something other than a terminal is on stdin."""
    return sys.stdin is not None and not sys.stdin.isatty()


def import_arrow(part: str | None = None) -> Any:
    """Return pyarrow with what reads and writes Parquet, or another part of it.

    Raises: CommandError where it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as missing:
        raise CommandError("Parquet needs the extra parquet: pip install 'baton-serving[parquet]'") from missing
    return importlib.import_module("pyarrow" if part is None else f"pyarrow.{part}")
