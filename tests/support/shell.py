"""Lines of a page as their reader runs them, and what they print beside what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from programs import find_program

VOLATILE = {"timing_ms", "state", "expires_at", "time", "process", "ms"}
OF_SHARED_RUNS = {"padded_steps", "batch_rows"}  # depends on what runs cost when the model was warmed, but for one row
CLOSE = 1e-4  # processors round differently; the pages show this many digits
TIME = re.compile(r"\d{4}-\d\d-\d\dT")
NUMBER = re.compile(r"\d+(?:\.\d*)?")
LIMIT_S = 600  # an emulated processor takes long


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines in `folder` as a user who has `baton` and `python` on the path; where curl is refused, it fails."""
    commands = folder / ".venv" / "bin"  # where `make serve` has them
    commands.mkdir(parents=True, exist_ok=True)
    python, curl = f'"{sys.executable}"', find_program("curl")
    for name, command in (("python", python), ("baton", f"{python} -m service"), ("curl", f"{curl} --fail-with-body")):
        (commands / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (commands / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    paths = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    ended = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=clean | paths | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, f"{script}\n{ended.stderr}"
    return ended


def assert_same(found: Any, printed: Any, where: str = "answer") -> None:
    """Compare JSON: numbers with fractions within `CLOSE`, and of what differs from call to call its kind."""
    if isinstance(printed, dict):
        assert found.keys() == printed.keys(), where
        volatile = VOLATILE if printed.get("rows") == 1 else VOLATILE | OF_SHARED_RUNS
        for name in printed:
            compare = assert_alike if name in volatile else assert_same
            compare(found[name], printed[name], f"{where}.{name}")
    elif isinstance(printed, list):
        assert len(found) == len(printed), where
        for index, (one, other) in enumerate(zip(found, printed, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert found == (pytest.approx(printed, abs=CLOSE, rel=CLOSE) if isinstance(printed, float) else printed), where


def assert_alike(found: Any, printed: Any, where: str) -> None:
    """Compare members, lengths, and the types of values; a time must be one."""
    if isinstance(printed, dict):
        assert found.keys() == printed.keys(), where
        for name in printed:
            assert_alike(found[name], printed[name], f"{where}.{name}")
    elif isinstance(printed, list):
        assert len(found) == len(printed), where
        for index, (one, other) in enumerate(zip(found, printed, strict=True)):
            assert_alike(one, other, f"{where}[{index}]")
    elif isinstance(printed, str) and TIME.match(found):
        datetime.fromisoformat(printed)
    else:
        assert type(found) is type(printed), where


def assert_prints(found: str, shown: str) -> None:
    """Compare text: numbers that round to what is shown, or are within `CLOSE`."""
    assert NUMBER.sub("#", found) == NUMBER.sub("#", shown)
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
        unit = 10.0 ** -len(other.partition(".")[2])
        allowed = max(0.5 * unit, CLOSE) if "." in other else 0.0
        assert float(one) == pytest.approx(float(other), abs=1.001 * allowed, rel=0), (found, shown)
