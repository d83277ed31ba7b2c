"""docs/bring-your-own.md, followed from top to bottom: its commands run, and print what it shows.

TensorFlow, of 1.7 GB, is not installed for it: tests/keras/pump.onnx is what the page's code for Keras wrote with the
versions that the page names, and the page shows what it printed.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Server, ServerFactory
from test_readme import assert_same

from service.contract.manifest import Manifest
from training import export_module

PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()
WALK, FORMS = PAGE.split("## What can be served\n")
MADE, WALK = WALK.split("## A model from elsewhere\n")
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


def test_a_pytorch_module_and_a_keras_model_are_served_with_the_numbers_that_they_print(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    kiln, exported, published, of_kiln, _, of_pump, drafted = re.findall(
        r"^```\w+\n(.*?)^```$", MADE, flags=re.DOTALL | re.MULTILINE
    )
    (tmp_path / "kiln.py").write_text(kiln)
    shutil.copy(ROOT / "tests" / "keras" / "pump.onnx", tmp_path)
    assert rounded(shell(exported, tmp_path).stdout) == rounded(published)
    assert json.loads(shell("python kiln.py", tmp_path).stdout) == json.loads(of_kiln)
    shell(drafted, tmp_path)
    server = start_server(tmp_path / "models", tmp_path / "state")
    for model, due in (("kiln", of_kiln), ("pump", of_pump)):
        first, *rest = [[0.5, 0.1, -0.2], [0.7, 0.0, -0.1], [0.9, -0.3, 0.4]]
        body = {"model": model, "items": [{"inputs": [first]}], "return": "all"}
        (begun,) = server.post("/v1/step", body).json()["results"]
        (ended,) = server.post("/v1/step", {**body, "items": [{"inputs": rest, "state": begun["state"]}]}).json()[
            "results"
        ]
        served = begun["outputs"]["forecast"] + ended["outputs"]["forecast"]
        for row, printed in zip(served, json.loads(due), strict=True):
            assert row == pytest.approx(printed, abs=1e-4)
    server.stop()


def rounded(published: str) -> str:
    """The line with its parity left out, if it is within the bound: its digits are the processor's."""
    (parity,) = re.findall(r"parity (\S+)", published)
    assert 0 < float(parity) <= 1e-5
    return published.replace(parity, "")


def test_the_page_has_every_argument_of_export_module() -> None:
    documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", MADE, flags=re.MULTILINE)))
    rows = {name for name in documented if name in inspect.signature(export_module).parameters}
    assert rows == inspect.signature(export_module).parameters.keys() - {"name", "models_dir", "command"}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_form_s_snippet_is_a_valid_manifest_with_what_every_model_has(snippet: str) -> None:
    everywhere = {"schema_version": 1, "name": "form", "version": "1", "file": "model.onnx", "sha256": "0" * 64}
    stepping = {
        "task": "step",
        "streamable": True,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "time", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", "time", 2]}],
        "states": [{"input": "h0", "output": "hn", "dtype": "float32", "shape": [1, "batch", 8]}],
    }
    members = json.loads(snippet)
    Manifest.model_validate({**everywhere, **(members if "task" in members else {**stepping, **members})})


def test_every_form_has_its_snippet() -> None:
    assert len(SNIPPETS) == len(re.findall(r"^\*\*", FORMS, flags=re.MULTILINE)) == 10
