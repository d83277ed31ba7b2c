"""Commands of `baton` in the test's own process, as `main` runs them; a process of its own each would take seconds."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from service.cli.command import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was written as JSON lines."""
        return [json.loads(line) for line in self.stdout.splitlines()]


class Terminal(io.StringIO):
    """What a command takes for a terminal."""

    def isatty(self) -> bool:
        return True


def run(*arguments: object, stdin: str | bytes = "", terminal: bool = False) -> Ended:
    """Run a command with `stdin` piped to it, whose stdout may be a terminal."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    out, err, status = Terminal() if terminal else io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["baton", *map(str, arguments)]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                err.write(f"{end.code}\n")
    return Ended(status, out.getvalue(), err.getvalue())
