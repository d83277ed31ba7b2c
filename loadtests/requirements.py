"""What a measurement needs of the machine and has to state, asked for before anything is measured.

It knows tools, cores and folders, not what is measured with them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

DATA_VARIABLE = "BATON_DATA_DIR"
DATA_FILES = ("sst2/test.tsv", "m4_weekly/Weekly-train.csv")
OPEN_FILES = 16_384


class BenchError(Exception):
    """A measurement cannot be made, or what it measured is not worth anything; the message says why."""


def require_wrk() -> None:
    """Raises: BenchError with the command that installs wrk."""
    if shutil.which("wrk") is None:
        raise BenchError("wrk is missing, which makes the closed-loop load; install it: sudo apt-get install -y wrk")


def data_dir() -> Path:
    """Return the folder of real data. Raises: BenchError when it is not named, or lacks a file."""
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        raise BenchError(f"{DATA_VARIABLE} is not set; it must name a folder that holds {' and '.join(DATA_FILES)}")
    for name in DATA_FILES:
        if not Path(named, name).is_file():
            raise BenchError(f"{DATA_VARIABLE} is {named}, which holds no {name}; see docs/benchmarks.md")
    return Path(named)


def cores() -> int:
    """Return the cores this process may use; say so when client and server must share a single one."""
    count = len(os.sched_getaffinity(0))
    if count < 2:
        print("bench: only 1 core here, shared by client and server; the figures want 2 or more", file=sys.stderr)
    return count


def raise_open_files() -> int:
    """Let this process, and those that it starts, hold `OPEN_FILES` connections, or as many as allowed; return that."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def wrk_version() -> str:
    return _printed("wrk", "-v").split()[1]


def commit_date() -> str:
    """Return the date of the commit that is checked out, or "unknown"."""
    return _printed("git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%cs") or "unknown"


def _printed(*command: str) -> str:
    """Return what a command prints, whatever its exit status: that of `wrk -v` is 1."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
