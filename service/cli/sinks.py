"""What a command writes: a table on a terminal, JSON lines elsewhere, or a file by its ending.

It knows rows of named cells, not what they are about. Invariant: the rows are the same in every form; only a table for
people is rounded.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import typer

from service.cli.sources import import_arrow
from service.cli.tables import print_table
from service.errors import CommandError

Row = Mapping[str, Any]
Write = Callable[[Row], object]
WIDE = 4  # members of an object that are columns of a table; what has more is one cell
NUMBER = re.compile(r"\d*\.?\d+")
BLOCKS = "▁▂▃▄▅▆▇█"


def wants_table(output: Path | None, as_json: bool) -> bool:
    """Return whether a person reads the output.

    Raises: CommandError where nobody can.
    """
    if output is None and sys.stdout is None:
        raise CommandError("stdout is closed; open it, or name a file with --output")
    return output is None and not as_json and sys.stdout.isatty()


@contextmanager
def open_rows(output: Path | None, as_json: bool, shown: Sequence[str] | None = None) -> Iterator[Write]:
    """Take rows: to `output`, or to stdout; on a terminal as a table, of the columns `shown` where they are named.

    A file is replaced as a whole when all has worked; until then its rows are beside it, in one that ends with .part.

    Raises: CommandError for a file that cannot be written, or of another ending.
    """
    if output is not None:
        if output.suffix.lower() not in _FILES:
            raise CommandError(f"--output {output} must end with one of {', '.join(_FILES)}")
        with _draft(output) as file:
            yield from _FILES[output.suffix.lower()](file)
    elif wants_table(output, as_json):
        rows: list[Row] = []
        try:
            yield rows.append
        finally:  # of what failed midway a person sees what was done
            _show(rows, shown)
    else:
        yield write_line


@contextmanager
def _draft(output: Path) -> Iterator[BinaryIO]:
    target = output.resolve()
    draft = target.with_name(f"{target.name}.part")
    try:
        file = draft.open("wb")
    except OSError as failure:
        raise CommandError(f"{output} cannot be written: {failure.strerror}") from failure
    try:
        with file:
            yield file
    except BaseException:
        if draft.stat().st_size:
            typer.echo(f"what was done is in {draft}; {output} was not written", err=True)
        else:
            draft.unlink()
        raise
    if not draft.stat().st_size:  # nothing came of it
        draft.unlink()
        return
    if target.exists():
        shutil.copymode(target, draft)
    draft.replace(target)


def refuse_overwriting(output: Path | None, *inputs: str | None) -> None:
    """Raises: CommandError where one of the files `inputs` is the output too."""
    for each in inputs:
        if output is not None and each and Path(each).is_file() and output.exists() and output.samefile(each):
            raise CommandError(f"--output {output} is the input; name another file")


def check_target(file: Path | None, option: str, output: Path | None) -> None:
    """Raises: CommandError where `file`, of an option, could not be written, before there is anything to lose."""
    if file is None:
        return
    target = file.resolve()
    if output is not None and output.resolve() == target:
        raise CommandError(f"{option} {file} is the --output, too; name another file")
    if target.exists() and not target.is_file():
        raise CommandError(f"{option} {file}: is no regular file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise CommandError(f"{option} {file}: nothing can be written to the directory {target.parent}")


def _write_jsonl(file: BinaryIO) -> Iterator[Write]:
    yield lambda row: file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _write_csv(file: BinaryIO) -> Iterator[Write]:
    with TextIOWrapper(file, encoding="utf-8", newline="") as text:
        yield _CsvFile(text).write


def _write_parquet(file: BinaryIO) -> Iterator[Write]:
    arrow, rows = import_arrow(), list[Row]()

    def write(row: Row) -> None:
        flat = flatten(row)
        _check_columns(rows[0] if rows else flat, flat)
        rows.append(flat)

    try:
        yield write
    finally:
        if rows:
            arrow.parquet.write_table(arrow.Table.from_pylist(rows), file)


_FILES = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}


class _CsvFile:
    """A CSV file whose header is that of the first row."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows: csv.DictWriter[str] | None = None

    def write(self, row: Row) -> None:
        flat = flatten(row)
        if self._rows is None:
            self._rows = csv.DictWriter(self._file, list(flat), lineterminator="\n")
            self._rows.writeheader()
        _check_columns(self._rows.fieldnames, flat)
        self._rows.writerow(flat)


def _check_columns(head: Iterable[str], row: Row) -> None:
    """Raises: CommandError for a row that has other columns than the first."""
    if other := sorted(set(head) ^ row.keys()):
        raise CommandError(f"rows differ in {', '.join(other)}, and a file of columns cannot hold both; write .jsonl")


def write_line(row: Row) -> None:
    """Write a row to stdout as a line of JSON, at once."""
    print(json.dumps(row, ensure_ascii=False), flush=True)


def flatten(row: Row) -> dict[str, Any]:
    """Return `row` with the members of its objects as cells of their own, and its lists as JSON."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": cell for inner, cell in flatten(value).items()}
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _show(rows: Iterable[Row], shown: Sequence[str] | None) -> None:
    flat = [flatten({name: _condense(cell) for name, cell in row.items()}) for row in rows]
    head = list(dict.fromkeys(name for row in flat for name in row))
    if shown is not None:
        head = [name for name in head if name.split(".")[0] in shown]
    if head:
        print_table(head, [[show_cell(row.get(name)) for name in head] for row in flat])


def _condense(value: Any) -> Any:
    return show_cell(value) if isinstance(value, list) or (isinstance(value, dict) and len(value) > WIDE) else value


def outermost(quantiles: Mapping[str, float]) -> list[float]:
    """Return the values of the lowest and the highest level."""
    levels = sorted(quantiles, key=float)
    return [quantiles[levels[0]], quantiles[levels[-1]]]


def show_cell(value: Any) -> str:
    """Return a cell for people: numbers with four digits, the range of quantiles, the likeliest of labels."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        if all(NUMBER.fullmatch(name) for name in value):
            return " to ".join(map(show_cell, outermost(value)))
        label = max(value, key=value.__getitem__)
        return f"{label} {show_cell(value[label])}"
    if isinstance(value, list):
        return (" to " if len(value) == 2 else " ").join(map(show_cell, value))
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def draw_line(values: Sequence[float | None]) -> str:
    """Return `values` as a line of blocks, a gap where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    top = len(BLOCKS) - 1
    return "".join(" " if value is None else BLOCKS[round((value - low) / span * top)] for value in values)


def drop_stdout() -> None:
    """Drop what is left to be written to stdout, of which whoever read it has ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
