"""The checkpoint of a stream: a file from which it goes on after a restart.

It knows files, not streams. Invariants: a file holds a whole checkpoint, whenever the process ends; two processes never
write the same one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from service.errors import CommandError


@dataclass(frozen=True)
class Checkpoint:
    """Where a stream of `model` is: behind `step` and behind line `line` of what it reads.

    `expected` is the interval of the next value, where the model predicts one; `header` the first line of CSV.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    model: str
    step: int
    state: str | None
    line: int
    header: str | None
    expected: list[float] | None


def read_checkpoint(file: Path) -> Checkpoint | None:
    """Return what the file holds, None where there is none.

    Raises: CommandError for a file that holds something else.
    """
    try:
        return TypeAdapter(Checkpoint).validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as failure:
        first = failure.errors()[0]
        reason = ": ".join([*map(str, first["loc"]), first["msg"]])
    except OSError as failure:
        reason = str(failure.strerror)
    raise CommandError(f"{file} is no checkpoint ({reason}); --fresh begins anew and replaces it")


def write_checkpoint(file: Path, checkpoint: Checkpoint) -> None:
    """Replace the file, which its owner alone may read; it is locked.

    Raises: CommandError when it cannot be written.
    """
    try:
        replace_file(file, json.dumps(asdict(checkpoint)))
    except OSError as failure:
        raise CommandError(f"the checkpoint {file} cannot be written: {failure.strerror}") from failure


def replace_file(file: Path, content: str) -> None:
    """Replace a file, or make it, as a whole; its owner alone may read it. Raises: OSError."""
    draft = _draft(file)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as written:
        os.fchmod(written.fileno(), 0o600)  # a draft that another process left, too
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    os.replace(draft, file)


@contextmanager
def locked(file: Path) -> Iterator[Path]:
    """Keep other streams from the file that `file` is or links to, and yield that; its folder is made.

    Raises: CommandError where another stream has it.
    """
    file = file.resolve()
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = stack.enter_context(file.with_name(f".{file.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _draft(file).unlink(missing_ok=True)  # of one that was killed as it wrote
        except BlockingIOError as failure:
            raise CommandError(
                f"another stream goes on from {file}; give this one a --checkpoint of its own"
            ) from failure
        except OSError as failure:
            raise CommandError(f"the checkpoint {file} cannot be written: {failure.strerror}") from failure
        yield file


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.draft")
