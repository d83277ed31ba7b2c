"""What the arguments and files of a command give: texts, series or recordings.

It knows arguments and sources, not what is asked about them. Invariant: each item has the place by which a user finds
it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from service.cli.batches import FAILED, Item
from service.cli.series import Layout, Series, Value, read_columns, read_lines, read_numbers, without_gaps
from service.cli.sources import STDIN, Kind, Source, check_text, is_piped
from service.errors import CommandError


def read_texts(command: str, given: list[str], file: str | None, column: str | None, kind: Kind | None) -> list[Item]:
    """Return the texts that are given to a command, or stand in its file.

    Raises: CommandError where there are none, or what is no text.
    """
    items = list(_texts(command, given, file, column, kind))
    if not items:
        raise CommandError("there are no texts")
    return items


def _texts(command: str, given: list[str], file: str | None, column: str | None, kind: Kind | None) -> Iterator[Item]:
    if given and given != [STDIN]:
        if file is not None:
            raise CommandError("give texts, or --file, not both")
        if column is not None or kind is not None:
            raise CommandError("--column and --format are about a file or stdin, and the arguments are texts")
        for number, text in enumerate(given, start=1):
            yield Item(f"text {number}", {"text": check_text(text, f"text {number}")})
        return
    if file is None and not given and not is_piped():
        raise CommandError(f"give texts, a --file of them, or pipe them in; baton {command} --help has examples")
    source = Source(file or STDIN, kind)
    for line, text in _lines(source, column):
        if not isinstance(text, str):
            raise CommandError(f"{source.name}, line {line}: no text: {text!r}")
        place = f"{source.name}, line {line}"
        yield Item(place, {"text": check_text(text, place)}, line)


def _lines(source: Source, column: str | None) -> Iterator[tuple[int, Any]]:
    if column is None and source.has_columns:
        column = source.only_column()
    if column is None:
        return source.values()
    return ((line, text) for line, (text,) in source.columns(column))


def read_series(
    command: str, given: list[str], kind: Kind | None, layout: Layout
) -> tuple[list[Series], list[CommandError]]:
    """Return the series that are given to a command as numbers or in a file, and why others are none, said on stderr.

    Raises: CommandError where there is nothing to read, or the file cannot be read; typer.Exit where all are none.
    """
    read = list(_series(command, given, kind, layout))
    series = [each for each in read if isinstance(each, Series)]
    failures = [each for each in read if isinstance(each, CommandError)]
    for failure in failures:
        typer.echo(f"baton: {failure}", err=True)
    if failures and not series:
        raise typer.Exit(FAILED)
    return series, failures


def _series(command: str, given: list[str], kind: Kind | None, layout: Layout) -> Iterator[Series | CommandError]:
    if not given and not is_piped():
        raise CommandError(f"give a file or numbers, or pipe series in; baton {command} --help has examples")
    if len(given) > 1 or (given and _is_number(given[0])):
        if layout.columns:
            raise CommandError("--column is about a file, and several arguments are the numbers of a series")
        if kind is not None:
            raise CommandError("--format is about a file or stdin, and the arguments are the numbers of a series")
        values: list[Value] = [*read_numbers(" ".join(given), "the series")]
        yield Series(None, "the series", without_gaps(values, layout.gaps, "the series: ", "value {}".format))
        return
    source = Source(given[0] if given else STDIN, kind)
    if source.has_columns and not layout.columns:
        raise CommandError(f"name the column of values in {source.name} with --column")
    yield from read_columns(source, layout) if layout.columns else read_lines(source, layout.gaps)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_recordings(files: list[str]) -> list[Item]:
    """Return the contents of WAV files. Raises: CommandError for one that cannot be read, and where none is named."""
    if not files:
        raise CommandError("name the WAV files; baton classify --help has examples")
    return [Item(file, {"audio": _read_bytes(file)}) for file in files]


def _read_bytes(file: str) -> str:
    try:
        return base64.b64encode(Path(file).read_bytes()).decode()
    except OSError as failure:
        raise CommandError(f"{file} cannot be read: {failure.strerror}") from failure


def series_item(series: Series) -> Item:
    """Return what is asked about a series, which is numbers or rows of them."""
    rows = bool(series.values) and isinstance(series.values[0], list)
    return Item(series.label, {"inputs" if rows else "values": series.values}, series.line)


def place_members(series: Series) -> dict[str, Any]:
    """Return what says in a row which series it is of."""
    if series.name is not None:
        return {"series": series.name}
    return {} if series.line is None else {"line": series.line}


def text_members(item: Item) -> dict[str, Any]:
    """Return what says in a row which text it is of."""
    return {**({} if item.line is None else {"line": item.line}), "text": item.content["text"]}
