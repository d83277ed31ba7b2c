"""Programs of Debian's packages that tests need."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(name: str) -> str:
    """Return where a program is; CI always has it, for `make test` installs it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        assert "CI" not in os.environ, f"no {name}, and under CI that may not be skipped"
        pytest.skip(f"no {name}; `make test` installs it")
    return found
