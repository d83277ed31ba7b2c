"""What the processes of a service serve, for a process that starts later: it serves the same, whatever else is on disk.

A record in memory that they share says so. It knows names, versions and times, not how models are loaded. Invariant:
a record is read as a whole, as some process wrote it; where one was killed over writing it, as one that says nothing.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Self

log = logging.getLogger("baton.loading")


@dataclass(frozen=True)
class Record:
    """What is served: by the names of models, the versions, each with the time of its end if it retires, and which of
    them is chosen for new work, if not the newest. None where nobody has said so yet.

    `fenced` are versions that no process may run, until one has loaded them anew.

    `asked` counts the reloads that the service was asked for, and `answered` those of them that a process has answered.
    """

    versions: dict[str, dict[str, int | None]] | None = None
    chosen: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    answered: int = 0
    fenced: list[list[str]] = field(default_factory=list)


class Served:
    """The record, shared by processes that are forked after it was made."""

    def __init__(self, file: int) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def shared(cls) -> Iterator[Self]:
        """Share a record until the end of the block."""
        file = os.memfd_create("baton-served")
        try:
            yield cls(file)
        finally:
            os.close(file)

    def ask(self) -> None:
        """Say that the service was asked for a reload; whoever dies before it has answered leaves that to another."""
        with self._turn():
            before = self._read()
            self._write(replace(before, asked=before.asked + 1))

    def answer(self, asked: int) -> None:
        """Say that a process has reloaded, or could not, when it was asked for so many reloads."""
        with self._turn():
            before = self._read()
            self._write(replace(before, answered=max(before.answered, asked)))

    def fence(self, name: str, version: str) -> None:
        """Say that a version may not be run, until a process has loaded it anew."""
        with self._turn():
            before = self._read()
            self._write(replace(before, fenced=[*before.fenced, [name, version]]))

    def take_up(
        self, versions: dict[str, dict[str, int | None]], chosen: Mapping[str, str], anew: Collection[list[str]]
    ) -> Record:
        """Say what this process serves from now on, of which it has loaded `anew` some; return the record of it."""
        with self._turn():
            before = self._read()
            fenced = [version for version in before.fenced if version not in anew]
            record = replace(before, versions=versions, chosen=dict(chosen), fenced=fenced)
            self._write(record)
        return record

    def read(self) -> Record:
        with self._turn():
            return self._read()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        lock = os.open(f"/proc/self/fd/{self._file}", os.O_RDONLY)  # its own, for processes share what they inherit
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> Record:
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        try:
            return Record(**json.loads(content)) if content else Record()
        except ValueError:
            log.warning("what is served was not written to its end; the models directory is loaded as it is")
            return Record()

    def _write(self, record: Record) -> None:
        content = json.dumps(asdict(record)).encode()
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))
