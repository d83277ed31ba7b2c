"""The process from which those that score are forked: it imports what they need, once, while the command reads.

It knows the name of what is imported, not what that does. Invariant: this module imports nothing of the service, so
that a command can begin with it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

# Memory that a run gives back stays with the process: of large runs it would take half as long again to have it anew.
FOR_ENGINES = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
PRELOADED = "service.cli.scoring.preloaded"


def leave_out_pandas() -> None:
    """Have no pandas in this process.

    Arrow imports it where it is installed, whether or not it is used: 0.2 s, and 38 MB of each process.
    """
    if _NoPandas not in sys.meta_path:
        sys.meta_path.insert(0, _NoPandas)


class _NoPandas:
    """A finder of modules."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raises: ModuleNotFoundError for pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def prepare_processes() -> ForkServerContext:
    """Begin to import, in a process of its own, what the processes that score are forked with."""
    for name, value in FOR_ENGINES.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()
    return context
