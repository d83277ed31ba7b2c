"""A server as a child process: whatever comes instead of its URL, no process is left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from service import launch
from service.errors import StartupError

HANGS = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"


def is_gone(log: Path) -> bool:
    return not Path("/proc", log.read_text().split()[-1]).exists()


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('no such model')")
    with pytest.raises(StartupError, match=r"ended before it listened; its log:\nno such model"):
        launch.launch(tmp_path / "log", {}, command)


def test_a_server_that_never_listens_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StartupError, match=r"does not listen within 2 s"):
        launch.launch(log, {}, (sys.executable, "-c", HANGS), limit_s=2)
    assert is_gone(log)


def test_an_interrupted_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"

    def interrupt(_: float) -> None:
        if log.read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(launch.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch.launch(log, {}, (sys.executable, "-c", HANGS))
    assert is_gone(log)


def test_only_what_is_said_since_this_start_counts(tmp_path: Path) -> None:
    """A log goes on from start to start; the URL of an earlier start is no URL of this one."""
    log = tmp_path / "log"
    log.write_text("Uvicorn running on http://old\n")
    says = "import time; print('Uvicorn running on http://new', flush=True); time.sleep(3600)"
    process, url = launch.launch(log, {}, (sys.executable, "-c", says))
    process.kill()
    process.wait()
    assert url == "http://new"
