"""docs/bring-your-own.md, followed from top to bottom: its commands run, and print what it shows.

TensorFlow, of 1.7 GB, is not installed for it: tests/keras/pump.onnx is what the page's code for Keras wrote with the
versions that the page names, and the page shows what it printed.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Server, ServerFactory
from pages import blocks
from shell import assert_same, shell

from service.contract.manifest import Manifest
from training import export_module

PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()
WALK, FORMS = PAGE.split("## What can be served\n")
MADE, WALK = WALK.split("## A model from elsewhere\n")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(WALK)
FURNACE, POET, TAGGER, INTERPRETER = map(
    BLOCK.findall,
    re.split(r"^## (?:A language model|A tagger|An encoder and a decoder) from elsewhere$", WALK, flags=re.M),
)
MADE_BLOCKS = re.findall(r"^```\w+\n(.*?)^```$", MADE, flags=re.DOTALL | re.MULTILINE)
OF_MANIFESTS = [block.text for block in blocks(ROOT / "docs" / "manifest.md")]
SNIPPETS = re.findall(r"^```json\n(.*?)^```$", FORMS, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "followed"),
    [
        (
            "furnace",
            [
                *("python", "bash", "json"),  # the network
                *("bash", "json", "text"),  # its draft
                *("bash", "text"),  # filled in
                *("bash", "bash", "json", "bash", "json"),  # served
            ],
        ),
        (
            "poet",
            [
                *("python", "bash", "json"),  # the network
                *("bash", "bash", "text"),  # its manifest, and what is drafted
                *("bash", "bash", "json", "bash", "json"),  # served
            ],
        ),
        ("tagger", [*("python", "bash", "json"), *("bash", "bash", "text"), *("bash", "bash", "json")]),
        ("interpreter", [*("python", "bash", "json"), *("bash", "bash"), *("bash", "json", "bash", "json")]),
    ],
)
def test_a_walk_ends_at_the_answers_of_the_service_with_what_it_prints(
    name: str, followed: list[str], tmp_path: Path, start_server: ServerFactory
) -> None:
    server: Server | None = None
    shown = subprocess.CompletedProcess("", 0, "", "")
    walk = {"furnace": FURNACE, "poet": POET, "tagger": TAGGER, "interpreter": INTERPRETER}[name]
    for kind, text in walk:
        if kind == "python":
            (tmp_path / f"{name}.py").write_text(text)
        elif kind == "bash" and text.startswith("baton serve"):
            assert text.split() == ["baton", "serve", "--models-dir", "models"]
            server = start_server(tmp_path / "models", tmp_path / "state")
        elif kind == "bash":
            there = server.url.removeprefix("http://") if server is not None and server.url else "no-server-yet"
            shown = shell(text.replace("localhost:8000", there), tmp_path)
        elif kind == "json":
            found, printed = json.loads(shown.stdout), json.loads(text)
            if isinstance(found, dict) and "sha256" in found:  # exporters write other bytes from version to version
                assert re.fullmatch("[0-9a-f]{64}", found["sha256"])
                found["sha256"] = printed["sha256"]
            assert_same(found, printed)
        else:
            assert kind == "text"
            lines = [line.rstrip() for line in (shown.stderr or shown.stdout).splitlines()]
            assert lines == text.splitlines()
    assert [kind for kind, _ in walk] == followed
    assert server is not None
    server.stop()


def test_a_pytorch_module_and_a_keras_model_are_served_with_the_numbers_that_they_print(
    tmp_path: Path, start_server: ServerFactory
) -> None:
    kiln, exported, published, of_kiln, _, of_pump, drafted = MADE_BLOCKS
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


@pytest.mark.parametrize("snippet", [*SNIPPETS, *OF_MANIFESTS])
def test_a_snippet_is_a_valid_manifest_with_what_every_model_has(snippet: str) -> None:
    everywhere = {"schema_version": 1, "name": "form", "version": "1", "file": "model.onnx", "sha256": "0" * 64}
    stepping = {
        "task": "step",
        "streamable": True,
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", "time", 3]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", "time", 2]}],
        "states": [{"input": "h0", "output": "hn", "dtype": "float32", "shape": [1, "batch", 8]}],
    }
    members = json.loads(snippet)
    start = members.get("start", {})
    for hashed in (start, start.get("text")):  # the page leaves hashes out
        if hashed:
            hashed["sha256"] = "0" * 64
    Manifest.model_validate({**everywhere, **(members if "task" in members else {**stepping, **members})})


def test_every_form_has_its_snippet() -> None:
    assert len(SNIPPETS) == len(re.findall(r"^\*\*", FORMS, flags=re.MULTILINE)) == 13
