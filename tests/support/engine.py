"""A Docker engine, for the tests that need a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable

import pytest
from conftest import ROOT

LIMIT_S = 600
POLL_S = 0.2


def need_engine() -> None:
    """Skip the test where no engine answers, or where others run beside it: ports and memory are for all of them."""
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker engine answers here")
    if "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("needs the machine for itself: `make image-test`")


def run(*command: str, **environment: str) -> str:
    """Return what a command prints; it must succeed."""
    variables = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def docker(*arguments: str) -> str:
    """Return what a command of Docker prints; it must succeed."""
    return run("docker", *arguments)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Ask until it holds."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(POLL_S)
