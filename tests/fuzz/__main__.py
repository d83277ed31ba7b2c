"""`make fuzz`: one target under atheris for so many seconds, from the corpus that is committed.

Inputs that reach new code are kept below WORK, and so are those that are findings; the latter go to the corpus.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

import atheris

HERE = Path(__file__).parent
WORK = HERE.parent.parent / ".fuzz"

with atheris.instrument_imports(include=["service", "uvicorn", "websockets"]):
    from targets import TARGETS


def main(name: str, seconds: str) -> None:
    logging.disable(logging.WARNING)
    target, found = TARGETS[name], WORK / name
    found.mkdir(parents=True, exist_ok=True)

    def read(data: bytes) -> None:
        with suppress(*target.errors):
            target.read(data)

    limits = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    folders = [str(found), str(HERE / "corpus" / name)]
    atheris.Setup([sys.argv[0], *folders, f"-artifact_prefix={WORK}/{name}-", *limits], read)
    atheris.Fuzz()


main(*sys.argv[1:])
