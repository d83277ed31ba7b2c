"""A state in a file, which is its owner's alone.

It knows files and the options that name them, not what a state is of. Invariant: a file holds a whole state, whenever
the process ends.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer

from service.cli.checkpoint import replace_file
from service.errors import CommandError


def read_state(file: Path, option: str) -> str:
    """Return the state in a file, which `option` names. Raises: CommandError for a file that cannot be read."""
    try:
        state = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as failure:
        raise CommandError(f"{option}: {failure}") from failure
    if not state:
        raise CommandError(f"{option}: the file is empty, and holds no state; remove it to begin anew")
    return state


def check_state_file(file: Path | None, option: str, output: Path | None) -> None:
    """Raises: CommandError where a state could not be kept in `file`, before there is anything to lose."""
    if file is None:
        return
    target = file.resolve()
    if output is not None and output.resolve() == target:
        raise CommandError(f"{option} {file} is the --output, too; name another file")
    if target.exists() and not target.is_file():
        raise CommandError(f"{option} {file}: is no regular file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise CommandError(f"{option} {file}: nothing can be written to the directory {target.parent}")


def write_state(file: Path, option: str, state: str, step: int, expires_at: str) -> None:
    """Write a state to a file, and say so. Raises: CommandError for a file that cannot be written."""
    try:
        replace_file(file.resolve(), state + "\n")
    except OSError as failure:
        raise CommandError(f"{option} {file}: {failure.strerror}") from failure
    typer.echo(f"the state after step {step} is in {file}, good until {expires_at}", err=True)
