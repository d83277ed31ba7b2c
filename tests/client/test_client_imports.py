"""What the client imports, read from its source: its dependencies, and its own modules in one direction."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

FOLDER = ROOT / "client"
LAYERS = (
    {"errors", "inputs", "lifetime", "retries"},
    {"events"},
    {"results", "routes", "translations"},
    {"frames", "calls"},
    {"journal"},
    {"async_stream"},
    {"async_client"},
    {"portal"},
    {"stream", "generation"},
    {"client"},
    {"__init__"},
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
FILES = {file.stem: file for file in sorted((FOLDER / "baton_client").rglob("*.py"))}


def imports(file: Path) -> set[str]:
    """Return the modules that `file` imports, at any depth of the code."""
    nodes = [*ast.walk(ast.parse(file.read_text()))]
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level], "imports are absolute here"
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module is not None}


def test_every_module_of_the_client_has_its_layer() -> None:
    assert set(FILES) == set(LEVEL)


@pytest.mark.parametrize("module", FILES)
def test_a_module_of_the_client_imports_only_from_lower_layers(module: str) -> None:
    own = {name.partition(".")[2] or "__init__" for name in imports(FILES[module]) if name.startswith("baton_client")}
    assert not {name for name in own if LEVEL[name] >= LEVEL[module]}


@pytest.mark.parametrize("module", FILES)
def test_a_module_of_the_client_imports_only_what_the_client_requires(module: str) -> None:
    """So nothing of the service, of training, of FastAPI or of ONNX Runtime."""
    requirements = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = {re.split(r"\W", requirement)[0] for requirement in requirements} | {"baton_client"}
    assert not {name.split(".")[0] for name in imports(FILES[module])} - sys.stdlib_module_names - allowed
