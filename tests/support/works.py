"""Work for a trial's process, which imports it from here."""

from __future__ import annotations

import os
from pathlib import Path


def show_how_soon_the_kernel_ends_it(*, optimisation: str) -> str:
    return Path("/proc/self/oom_score_adj").read_text().strip()


def fail(*, optimisation: str) -> None:
    raise ZeroDivisionError("a mistake of ours")


def leave(*, optimisation: str) -> None:
    os._exit(3)  # as native code may
