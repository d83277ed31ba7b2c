"""Lines as they come, from stdin or a file, until the end or until there is something to stop for.

It knows lines and their numbers, not what is in them. Invariant: each line is yielded once, whole, in its order.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from service.errors import CommandError

LINES_AT_ONCE = 100
CHUNK_BYTES = 65_536
LOOK_AGAIN_S = 0.2  # a file that is followed has no way to say that it grew
GRACE_S = 2.0  # for what is under way when a signal comes
Line = tuple[int, bytes]


class _Cut(BaseException):
    """What was under way at a signal did not end by itself."""


def read_lines(file: Path | None, behind: int, *, follow: bool, stop: int) -> Iterator[list[Line]]:
    """Yield the lines behind line `behind` that are at hand, at most LINES_AT_ONCE together, until a byte is in `stop`.

    Stdin begins there; of a file what is before is passed over. A file that is followed has no end.

    Raises: CommandError for a file that cannot be read, has fewer lines, or is another when it is followed.
    """
    descriptor = sys.stdin.fileno() if file is None else _open(file)
    count, rest, more = (behind if file is None else 0), b"", True
    while more:
        if stop in select.select([descriptor, stop], [], [])[0]:
            return
        chunk = os.read(descriptor, CHUNK_BYTES)
        *ended, rest = (rest + chunk).split(b"\n")
        lines = [line + b"\n" for line in ended]
        more = follow or bool(chunk)
        if not more and rest:
            lines.append(rest)
        numbered = [line for line in enumerate(lines, start=count + 1) if line[0] > behind]
        for start in range(0, len(numbered), LINES_AT_ONCE):
            if _waits(stop, 0):
                return
            yield numbered[start : start + LINES_AT_ONCE]
        count += len(lines)
        if not chunk and count + bool(rest and more) < behind:  # the last line may have been taken without its end
            raise CommandError(f"{file} has {count} lines, and its checkpoint is behind line {behind}; see --fresh")
        if not chunk and file is not None and follow:
            _check_same(file, descriptor, count)
            _waits(stop, LOOK_AGAIN_S)


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDONLY)
    except OSError as failure:
        raise CommandError(f"--file {file}: {failure.strerror}") from failure


def _waits(stop: int, timeout_s: float) -> bool:
    """Return whether there is a byte in `stop`, or comes."""
    return bool(select.select([stop], [], [], timeout_s)[0])


def _check_same(file: Path, descriptor: int, count: int) -> None:
    """Raises: CommandError when the file that is open is no longer the one of that name, or was cut."""
    held = os.fstat(descriptor)
    try:
        named = file.stat()
    except FileNotFoundError:
        named = None
    if named is None or not os.path.samestat(held, named) or held.st_size < os.lseek(descriptor, 0, os.SEEK_CUR):
        raise CommandError(f"{file} was replaced or cut after line {count}; pipe it in with tail -F, or see --fresh")


@contextmanager
def ended_by_signals() -> Iterator[int]:
    """Have SIGINT and SIGTERM put a byte in the pipe that is yielded, so that what has begun is ended first.

    A second signal, or GRACE_S, ends the block wherever it is.
    """
    reading, writing = os.pipe()

    def end(number: int, _: object) -> None:
        if number == signal.SIGALRM or _waits(reading, 0):
            for each in before:
                signal.signal(each, signal.SIG_IGN if each == signal.SIGALRM else signal.SIG_DFL)
            raise _Cut
        os.write(writing, b"\0")
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    try:
        yield reading
    except _Cut:
        typer.echo("baton: ended before the last lines were answered", err=True)
    finally:
        if _waits(reading, 0):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)
        os.close(reading)
        os.close(writing)
