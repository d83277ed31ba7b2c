"""docs/bring-your-own.md, followed from top to bottom: its commands run, and print what it shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Server, ServerFactory
from test_readme import assert_same

from service.contract import Manifest

PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()
WALK, FORMS = PAGE.split("## What can be served\n")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", WALK, flags=re.DOTALL | re.MULTILINE)
SNIPPETS = re.findall(r"^```json\n(.*?)^```$", FORMS, flags=re.DOTALL | re.MULTILINE)


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run lines as a user would who has `baton` and `python` on the path."""
    commands = folder / "bin"
    commands.mkdir(exist_ok=True)
    for name, arguments in (("python", ""), ("baton", "-m service")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        (commands / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BATON_")}
    paths = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    ended = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=clean | paths,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def test_the_walk_ends_at_the_second_step_with_the_numbers_that_it_prints(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    server: Server | None = None
    shown = subprocess.CompletedProcess("", 0, "", "")
    followed = []
    for kind, text in BLOCKS:
        if kind == "python":
            (tmp_path / "furnace.py").write_text(text)
        elif kind == "bash" and text.startswith("baton serve"):
            assert text.split() == ["baton", "serve", "--models-dir", "models"]
            server = start_server(tmp_path / "models", tmp_path / "state")
        elif kind == "bash":
            there = server.url.removeprefix("http://") if server is not None and server.url else "no-server-yet"
            shown = shell(text.replace("localhost:8000", there), tmp_path)
        elif kind == "json":
            found, printed = json.loads(shown.stdout), json.loads(text)
            if "sha256" in found:  # exporters write other bytes from version to version
                assert re.fullmatch("[0-9a-f]{64}", found["sha256"])
                found["sha256"] = printed["sha256"]
            assert_same(found, printed)
        else:
            assert kind == "text"
            lines = [line.rstrip() for line in (shown.stderr or shown.stdout).splitlines()]
            assert lines == text.splitlines()
        followed.append(kind)
    assert followed == [
        *("python", "bash", "json"),  # the network
        *("bash", "json", "text"),  # its draft
        *("bash", "text"),  # filled in
        *("bash", "bash", "json", "bash", "json"),  # served
    ]
    assert server is not None
    server.stop()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_form_s_snippet_is_a_valid_manifest_with_what_every_model_has(snippet: str) -> None:
    everywhere = {
        "schema_version": 1,
        "name": "form",
        "version": "1",
        "task": "step",
        "streamable": True,
        "file": "model.onnx",
        "sha256": "0" * 64,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "time", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", "time", 2]}],
        "states": [{"input": "h0", "output": "hn", "dtype": "float32", "shape": [1, "batch", 8]}],
    }
    Manifest.model_validate({**everywhere, **json.loads(snippet)})


def test_every_form_has_its_snippet() -> None:
    assert len(SNIPPETS) == len(re.findall(r"^\*\*", FORMS, flags=re.MULTILINE)) == 9
