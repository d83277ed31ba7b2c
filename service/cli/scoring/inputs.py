"""The rows to score: Parquet, CSV and JSON lines, read piece by piece.

It knows files, wherever pyarrow or fsspec finds them, and not what is scored. Invariant: the same files are cut into
the same chunks, whenever they are read, and a chunk is all that is in memory.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from service.cli.sources import import_arrow, read_header
from service.errors import CommandError

Kind = Literal["parquet", "csv", "jsonl"]
ENDINGS: dict[str, Kind] = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MAGIC = "*?["
READ_ROWS = 4096  # of a Parquet file at a time
READ_BYTES = 2**20  # of a text file at a time


@dataclass(frozen=True)
class File:
    """A file of rows; `place` is what the user calls it."""

    system: Any
    path: str
    place: str
    kind: Kind
    size: int


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


class Groups:
    """The groups that have been seen, each of which must stand together."""

    def __init__(self, reading: Reading) -> None:
        self._column = reading.group
        self._seen: set[int] = set()

    def see(self, place: str, names: Sequence[str]) -> None:
        """Raises: CommandError where a group has been seen before."""
        for name in names:
            key = hash(name)  # the names themselves may be long
            if key in self._seen:
                apart = f"rows of {self._column} {name} stand apart; sort the input by {self._column} first"
                raise CommandError(f"{place}: {apart}")
            self._seen.add(key)


def find_files(places: Sequence[str], kind: Kind | None) -> list[File]:
    """Return the files that paths, globs, directories and URLs name, in the order of their names.

    Raises: CommandError where there are none, or what is in one is not said by its ending.
    """
    found = [file for place in places for file in _find(place)]
    files = []
    for system, path, place, size in found:
        ending = Path(path).suffix.lower()
        is_kind = kind or ENDINGS.get(ending)
        if is_kind is None:
            raise CommandError(f"{place}: what is in it? Say it with --format: {', '.join(get_args(Kind))}")
        files.append(File(system, path, place, is_kind, size))
    return files


def _find(place: str) -> Iterator[tuple[Any, str, str, int]]:
    arrow_fs = import_arrow("fs")
    if "://" in place:
        system, path = open_system(place)
        scheme = place[: place.index("://") + 3]
    else:
        system, path, scheme = arrow_fs.LocalFileSystem(), place, ""
    if any(letter in path for letter in MAGIC):
        yield from _matching(system, path, place, scheme)
        return
    (info,) = system.get_file_info([path])
    if info.type is arrow_fs.FileType.NotFound:
        raise CommandError(f"{place} is not there")
    if info.type is arrow_fs.FileType.File:
        yield system, path, place, info.size
        return
    inside = system.get_file_info(arrow_fs.FileSelector(path, recursive=True))
    yield from _named(system, [each for each in inside if not _is_hidden(each.path, path)], place, scheme)


def _matching(system: Any, pattern: str, place: str, scheme: str) -> Iterator[tuple[Any, str, str, int]]:
    """Yield the files whose paths match; of a file system that is not local those of one folder."""
    if not scheme:
        yield from _named(system, system.get_file_info(sorted(glob.glob(pattern, recursive=True))), place, scheme)
        return
    arrow_fs = import_arrow("fs")
    folder = pattern.rpartition("/")[0]
    if any(letter in folder for letter in MAGIC):
        raise CommandError(f"{place}: of a URL only the name of the file may be a pattern")
    inside = system.get_file_info(arrow_fs.FileSelector(folder))
    yield from _named(system, [each for each in inside if fnmatch.fnmatch(each.path, pattern)], place, scheme)


def _named(system: Any, infos: Sequence[Any], place: str, scheme: str) -> Iterator[tuple[Any, str, str, int]]:
    files = sorted((info for info in infos if info.is_file), key=lambda info: str(info.path))
    if not files:
        raise CommandError(f"{place}: there are no files")
    for info in files:
        yield system, info.path, scheme + info.path, info.size


def _is_hidden(path: str, folder: str) -> bool:
    """Whether a file, or a folder on the way to it, is one that tools leave beside data: _SUCCESS, .part-0.parquet."""
    return any(part.startswith((".", "_")) for part in path[len(folder) :].split("/") if part)


def open_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it: pyarrow's own, or what fsspec knows by its scheme.

    Raises: CommandError for a URL of neither.
    """
    arrow_fs = import_arrow("fs")
    try:
        system, path = arrow_fs.FileSystem.from_uri(url)
    except (OSError, ValueError) as first:
        try:
            fsspec: Any = importlib.import_module("fsspec")
            system, path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as second:
            raise CommandError(f"{url} cannot be opened: {first}; {second}") from None
        system = arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(system))
    return system, path


def read_chunks(files: Sequence[File], reading: Reading) -> Iterator[Chunk]:
    """Yield the rows of `files` in chunks, the last of a file shorter.

    Raises: CommandError for a file that cannot be read, that lacks a column, or where rows of a group are apart.
    """
    groups = Groups(reading)
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
    names = table.column(group).combine_chunks()
    if names.null_count:
        raise CommandError(f"{file.place}: a row has no {group}; every row must say what it is of")
    return [repr(name) for name in (names[0].as_py(), *names[1:].filter(_changes(names)).to_pylist())]


def _changes(names: Any) -> Any:
    """Return for each name but the first whether it is another than the one before."""
    return import_arrow("compute").fill_null(import_arrow("compute").not_equal(names[1:], names[:-1]), True)


def _cut(batches: Iterator[tuple[Any, float]], rows: int, group: str | None) -> Iterator[tuple[Any, float]]:
    """Yield tables of `rows` rows, or up to where a group ends, each with the share of the file that was read."""
    arrow = import_arrow()
    kept: list[Any] = []
    count, share = 0, 0.0
    for batch, share in batches:
        kept.append(batch)
        count += batch.num_rows
        while count >= rows and kept:
            table = arrow.Table.from_batches(kept)
            end = rows if group is None else _last_start(table, group)
            if end == 0:
                break
            yield table.slice(0, end).combine_chunks(), share
            rest = table.slice(end).combine_chunks()
            kept, count = rest.to_batches(), rest.num_rows
            if group is not None:
                break
    if count:
        yield arrow.Table.from_batches(kept).combine_chunks(), share


def _last_start(table: Any, group: str) -> int:
    """Return where the last group of a table begins: it may go on in the next."""
    (changes,) = _changes(table.column(group).combine_chunks()).to_numpy(zero_copy_only=False).nonzero()
    return int(changes[-1]) + 1 if changes.size else 0


def _batches(file: File, reading: Reading) -> Iterator[tuple[Any, float]]:
    arrow = import_arrow()
    read = {"parquet": _parquet, "csv": _csv, "jsonl": _jsonl}[file.kind]
    try:
        for batch, share in read(file, reading.numbers):
            if missing := [name for name in reading.columns if name not in batch.schema.names]:
                there = ", ".join(batch.schema.names)
                raise CommandError(f"{file.place} has no column {missing[0]!r}; it has {there}")
            if batch.num_rows:
                yield batch, share
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as failure:
        raise CommandError(f"{file.place} cannot be read: {failure}") from failure


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
    with file.system.open_input_file(file.path) as source:
        header, delimiter = read_header(_first_line(source).decode("utf-8-sig"))
    types = {name: arrow.float64() if name in numbers else arrow.string() for name in header}
    with file.system.open_input_file(file.path) as source:
        options = (
            csv.ReadOptions(block_size=READ_BYTES),
            csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
        for batch in csv.open_csv(source, *options):
            yield batch, source.tell() / file.size


def _first_line(source: Any) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (letter := source.read(1)):
        line += letter
    return line


def _jsonl(file: File, numbers: Sequence[str]) -> Iterator[tuple[Any, float]]:
    json = import_arrow("json")
    with file.system.open_input_file(file.path) as source:
        for batch in json.open_json(source, json.ReadOptions(block_size=READ_BYTES)):
            yield batch, source.tell() / file.size
