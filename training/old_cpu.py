"""Python on an x86-64 processor with AVX2 and nothing newer, emulated by qemu: `python -m training.old_cpu ARGUMENTS`.

For tests and figures that must hold there, too; it is some thirty times slower. It knows qemu, not what is run.
Invariant: a process that `interpreter` starts can use neither AVX-512 nor VNNI, and its libraries see none.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("training.old_cpu")

EMULATOR = "qemu-x86_64"
# Without what this emulator lacks, of which it would warn at each start.
HASWELL = "Haswell-noTSX,-x2apic,-tsc-deadline,-invpcid,-pcid"
VARIABLE = "OLD_CPU_PYTHON"  # names the interpreter to the processes that run there


@contextmanager
def interpreter() -> Iterator[Path | None]:
    """Yield a command that runs this Python there; None without the emulator, and then say so in the log."""
    emulator = shutil.which(EMULATOR)
    if emulator is None:
        log.warning("no %s here, so nothing is tried on an older processor; Debian's qemu-user has it", EMULATOR)
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        command = Path(folder, "python")
        command.write_text(f'#!/bin/sh\nexec {emulator} -cpu {HASWELL} {sys.executable} "$@"\n')
        command.chmod(0o755)
        yield command


def main() -> int:
    """Run Python there with the arguments of this process; return its exit status, 1 without the emulator."""
    with interpreter() as python:
        if python is None:
            return 1
        environment = {**os.environ, VARIABLE: str(python)}
        return subprocess.run([python, *sys.argv[1:]], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
