"""The turn to write to an embedded store, held by a test."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nobody_may_write(state_dir: Path) -> Iterator[None]:
    """Hold the turn, so that whoever wants to write waits in vain."""
    with (state_dir / "states" / "turn.lock").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
