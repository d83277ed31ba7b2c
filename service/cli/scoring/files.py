"""Files of rows, wherever pyarrow or fsspec finds them.

It knows paths, patterns, folders and URLs, not what is in a file.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from service.cli.sources import import_arrow
from service.errors import CommandError

Kind = Literal["parquet", "csv", "jsonl"]
ENDINGS: dict[str, Kind] = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MAGIC = "*?["


@dataclass(frozen=True)
class File:
    """A file of rows; `place` is what the user calls it."""

    system: Any
    path: str
    place: str
    kind: Kind
    size: int
    changed_ns: int | None


def find_files(places: Sequence[str], kind: Kind | None) -> list[File]:
    """Return the files that paths, globs, directories and URLs name, in the order of their names.

    Raises: CommandError where there are none, or what is in one is not said by its ending.
    """
    found = [file for place in places for file in _find(place)]
    if twice := [place for place, count in Counter(place for _, _, place, _ in found).items() if count > 1]:
        raise CommandError(f"{twice[0]} is given twice")
    files = []
    for system, path, place, info in found:
        ending = Path(path).suffix.lower()
        is_kind = kind or ENDINGS.get(ending)
        if is_kind is None:
            raise CommandError(f"{place}: what is in it? Say it with --format: {', '.join(get_args(Kind))}")
        files.append(File(system, path, place, is_kind, info.size, info.mtime_ns))
    return files


def _find(place: str) -> Iterator[tuple[Any, str, str, Any]]:
    """Yield the file system, path, name and facts of each file that a place is, or has in it."""
    arrow_fs = import_arrow("fs")
    if "://" in place:
        system, path = open_system(place)
        scheme = place[: place.index("://") + 3]
    else:
        system, path, scheme = arrow_fs.LocalFileSystem(), str(Path(place).absolute()), ""
    (info,) = system.get_file_info([path])
    if info.type is arrow_fs.FileType.NotFound and any(letter in path for letter in MAGIC):
        yield from _matching(system, path, place, scheme)
        return
    if info.type is arrow_fs.FileType.NotFound:
        raise CommandError(f"{place} is not there")
    if info.type is arrow_fs.FileType.File:
        yield system, path, scheme + path, info
        return
    inside = system.get_file_info(arrow_fs.FileSelector(path, recursive=True))
    yield from _named(system, [each for each in inside if not _is_hidden(each.path, path)], place, scheme)


def _matching(system: Any, pattern: str, place: str, scheme: str) -> Iterator[tuple[Any, str, str, Any]]:
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


def _named(system: Any, infos: Sequence[Any], place: str, scheme: str) -> Iterator[tuple[Any, str, str, Any]]:
    files = sorted((info for info in infos if info.is_file), key=lambda info: str(info.path))
    if not files:
        raise CommandError(f"{place}: there are no files")
    for info in files:
        yield system, info.path, scheme + info.path, info


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
