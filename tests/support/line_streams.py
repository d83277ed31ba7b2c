"""`baton stream` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import ROOT


class Streaming:
    """A `baton stream` that runs, fed line by line."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "stream", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            bufsize=1,
        )

    def feed(self, line: object) -> dict[str, Any]:
        """Write a line, and return what is answered, before any other line is there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self, how: signal.Signals | None = None) -> str:
        """End it as a signal does, or the end of its input; return what it wrote to stderr."""
        if how is not None:
            self.process.send_signal(how)
            self.process.wait()
        _, err = self.process.communicate()
        assert self.process.returncode == 0, err
        return str(err)


@contextmanager
def streaming(*arguments: object) -> Iterator[Streaming]:
    stream = Streaming(*arguments)
    yield stream
    stream.process.kill()
    stream.process.communicate()


def piped(*arguments: object, lines: str) -> subprocess.CompletedProcess[str]:
    """Run a stream over lines that are all there at once."""
    command = [sys.executable, "-m", "service", "stream", *map(str, arguments)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, check=False)
