"""A state in a file, which is its owner's alone.

It knows files and the options that name them, not what a state is of. Invariant: a file holds a whole state, whenever
the process ends.
"""

from __future__ import annotations

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


def write_state(file: Path, option: str, state: str, step: int, expires_at: str) -> None:
    """Write a state to a file, and say so. Raises: CommandError for a file that cannot be written."""
    try:
        replace_file(file.resolve(), state + "\n")
    except OSError as failure:
        raise CommandError(f"{option} {file}: {failure.strerror}") from failure
    typer.echo(f"the state after step {step} is in {file}, good until {expires_at}", err=True)
