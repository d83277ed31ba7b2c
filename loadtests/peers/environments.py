"""Virtual environments of the peers, made where they are missing or their requirements have changed.

It knows venv and pip, not what is installed. Invariant: an environment holds what its requirements file names, or is
made again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = Path.home() / ".cache" / "baton" / "peers"
SYSTEM_PYTHON = Path("/usr/bin/python3")
MAX_OUTPUT_CHARS = 800


class PeerError(Exception):
    """A peer cannot be installed, started or believed; the message says why."""


def requirements(name: str) -> Path:
    return REQUIREMENTS / f"{name}.txt"


def pinned(name: str, package: str) -> str:
    """Return the version of `package` in the requirements called `name`."""
    lines = dict(line.split("==") for line in requirements(name).read_text().split())
    return lines[package]


def prepare(name: str, cache: Path, python: Path) -> Path:
    """Return the environment of the requirements called `name`, installed. Raises: PeerError with what pip said."""
    folder = cache / name

    def install() -> None:
        call(str(python), "-m", "venv", "--clear", str(folder))
        call(str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(requirements(name)))

    keep(folder, requirements(name).read_text(), install)
    return folder


def keep(folder: Path, wanted: str, install: Callable[[], None]) -> None:
    """Fill `folder` by `install`, unless it was filled for the same text of requirements before."""
    installed = folder / "installed.txt"
    if not installed.is_file() or installed.read_text() != wanted:
        print(f"installing {folder.name} in {folder}", file=sys.stderr)
        install()
        installed.write_text(wanted)


def call(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it prints. Raises: PeerError with the end of what it said as it failed."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    except OSError as failure:
        raise PeerError(f"{command[0]}: {failure.strerror}") from None
    if ended.returncode:
        raise PeerError(f"{' '.join(command)}: {(ended.stderr or ended.stdout).strip()[-MAX_OUTPUT_CHARS:]}")
    return ended.stdout
