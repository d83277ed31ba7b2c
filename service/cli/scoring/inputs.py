"""The rows to score: Parquet, CSV and JSON lines, read piece by piece.

It knows what files hold, not where they are or what is scored of them. Invariant: the same files are cut into
the same chunks, whenever they are read, and a chunk is all that is in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.cli.scoring.files import File
from service.cli.scoring.groups import Groups, find_names, find_starts, plain
from service.cli.sources import import_arrow, read_header
from service.errors import CommandError

READ_ROWS = 4096  # of a Parquet file at a time
READ_BYTES = 2**22  # of a CSV file at a time; no cell is longer


@dataclass(frozen=True)
class Chunk:
    """Rows of a file that are scored together; `name` tells it from all others.

    `first` is the number of its first row, counted from 1; `share` is how much of all input it is. `groups` are
    the names of the groups that begin in it.
    """

    name: str
    place: str
    first: int
    table: Any
    share: float
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Reading:
    """How files are read: in chunks of `rows` rows. `columns` must be there, and `numbers` among them hold numbers.

    With a `group`, a chunk holds all rows of its groups, and so somewhat more.
    """

    rows: int
    columns: Sequence[str]
    numbers: Sequence[str]
    group: str | None


def read_chunks(files: Sequence[File], reading: Reading) -> Iterator[Chunk]:
    """Yield the rows of `files` in chunks, the last of a file shorter.

    Raises: CommandError for a file that cannot be read, that lacks a column, or where rows of a group are apart.
    """
    groups = Groups(reading.group)
    for number in range(len(files)):
        for chunk in read_file(files, number, reading):
            groups.see(chunk.place, chunk.groups)
            yield chunk


def read_file(files: Sequence[File], number: int, reading: Reading) -> Iterator[Chunk]:
    """Do so for one of `files`, where it is not seen whether rows of a group are apart."""
    file, whole = files[number], sum(file.size for file in files)
    first, before = 1, 0.0
    for place, (table, share) in enumerate(_cut(_batches(file, reading), reading.rows, reading.group)):
        groups = () if reading.group is None else _names(file, table, reading.group)
        name = f"{number:05}-{place:06}"
        yield Chunk(name, file.place, first, table, (share - before) * file.size / whole, groups)
        first, before = first + table.num_rows, share


def _names(file: File, table: Any, group: str) -> Sequence[str]:
    """Return the name of each group of rows that follow each other. Raises: CommandError where a row is of none."""
    names = table.column(group)
    if names.null_count:
        raise CommandError(f"{file.place}: a row has no {group}; every row must say what it is of")
    return [plain(name) for name in find_names(names).to_pylist()]


def _cut(batches: Iterator[tuple[Any, float]], rows: int, group: str | None) -> Iterator[tuple[Any, float]]:
    """Yield tables of `rows` rows, or up to where a group ends, each with the share of the file that was read."""
    arrow = import_arrow()
    kept: list[Any] = []
    count, share = 0, 0.0

    def joined() -> Any:
        return arrow.concat_tables(kept, promote_options="permissive").combine_chunks()

    for batch, share in batches:
        kept.append(batch)
        count += batch.num_rows
        while count >= rows and kept:
            table = joined()
            end = rows if group is None else find_starts(table.column(group))[-1]  # the last may go on in the next
            if end == 0:
                break
            yield table.slice(0, end).combine_chunks(), share
            rest = table.slice(end).combine_chunks()
            kept, count = [rest], rest.num_rows
            if group is not None:
                break
    if count:
        yield joined(), share


def _batches(file: File, reading: Reading) -> Iterator[tuple[Any, float]]:
    """Yield the tables of a file, each with the share of the file that has been read with it."""
    arrow = import_arrow()
    read = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[file.kind]
    if not file.size:
        return
    try:
        for batch, share in read(file, reading.numbers):
            _check_columns(file, batch.schema, reading)
            if batch.num_rows:
                yield _as_table(batch), share
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as failure:
        raise CommandError(f"{file.place} cannot be read: {failure}") from failure


def _as_table(batch: Any) -> Any:
    arrow = import_arrow()
    return arrow.Table.from_batches([batch]) if isinstance(batch, arrow.RecordBatch) else batch


def _check_columns(file: File, schema: Any, reading: Reading) -> None:
    """Raises: CommandError for a column that is not there, or twice, or that holds no numbers or names of groups."""
    types = import_arrow().types
    there = ", ".join(schema.names)
    for name in reading.columns:
        if schema.names.count(name) != 1:
            wrong = "two columns" if name in schema.names else "no column"
            raise CommandError(f"{file.place} has {wrong} {name!r}; it has {there}")
        kind = schema.field(name).type
        numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind)
        if name in reading.numbers and not numeric:
            raise CommandError(f"{file.place}: the column {name!r} holds {kind}, not numbers")
        if name == reading.group and types.is_nested(kind):
            raise CommandError(f"{file.place}: the column {name!r} holds {kind}, by which rows cannot be told apart")


def _parquet(file: File, numbers: Sequence[str]) -> Iterator[tuple[Any, float]]:
    parquet = import_arrow("parquet")
    with file.system.open_input_file(file.path) as source:
        content, done = parquet.ParquetFile(source, pre_buffer=False), 0
        for batch in content.iter_batches(batch_size=READ_ROWS):
            done += batch.num_rows
            yield batch, done / content.metadata.num_rows


def _csv(file: File, numbers: Sequence[str]) -> Iterator[tuple[Any, float]]:
    """Every column is text, but for those of numbers: what it holds is not guessed from its beginning."""
    arrow, csv = import_arrow(), import_arrow("csv")
    with file.system.open_input_stream(file.path) as source:
        header, delimiter = read_header(_first_line(source).decode("utf-8-sig"))
    types = {name: arrow.float64() if name in numbers else arrow.string() for name in header}
    with file.system.open_input_file(file.path) as source:
        options = (
            csv.ReadOptions(block_size=READ_BYTES, column_names=header, skip_rows=1),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
        for batch in csv.open_csv(source, *options):
            yield batch, source.tell() / file.size


def _first_line(source: Any) -> bytes:
    line = b""
    while b"\n" not in line and (more := source.read(READ_BYTES)):
        line += more
    return line.partition(b"\n")[0]


def _jsonl(file: File, numbers: Sequence[str]) -> Iterator[tuple[Any, float]]:
    """What is text stays so, whatever it looks like; an object may have members that those before had not."""
    with file.system.open_input_file(file.path) as source, io.BufferedReader(source) as lines:
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_read_object(file, number, line))
            if len(rows) == READ_ROWS:
                yield _tabulate(file, rows, numbers), min(1.0, source.tell() / file.size)
                rows = []
        if rows:
            yield _tabulate(file, rows, numbers), 1.0


def _read_object(file: File, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as failure:
        raise CommandError(f"{file.place}, line {number}: no JSON: {failure}") from None
    if not isinstance(found, dict):
        raise CommandError(f'{file.place}, line {number}: no object; each line holds a row, as {{"text": ...}}')
    return found


def _tabulate(file: File, rows: Sequence[dict[str, Any]], numbers: Sequence[str]) -> Any:
    arrow = import_arrow()
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = arrow.array([row.get(name) for row in rows], arrow.float64() if name in numbers else None)
        except arrow.ArrowException as failure:
            raise CommandError(f"{file.place}: {name!r} holds what does not go together: {failure}") from None
    return arrow.table(columns)
