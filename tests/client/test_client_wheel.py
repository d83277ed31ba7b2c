"""The client installs alone, from its folder and as a wheel, in an environment that has nothing of the service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Server

import baton_client
import service

PIP = ["-m", "pip", "--disable-pip-version-check", "-q"]
FOREIGN = ("service", "training", "fastapi", "onnxruntime", "pydantic", "uvicorn", "torch")
SCRIPT = f"""
import importlib.metadata, importlib.util, json, sys
from pathlib import Path
import baton_client
from baton_client import Client

with Client(sys.argv[1]) as client, client.stream("numbers") as stream:
    steps = [client.step("numbers", [1.0, 2.0]).step, stream.step([3.0]).step]
told = importlib.metadata.metadata("baton-client")
print(json.dumps({{
    "foreign": [name for name in {FOREIGN} if importlib.util.find_spec(name)],
    "metadata": [told["Version"], told["License-Expression"]],
    "typed": (Path(baton_client.__file__).parent / "py.typed").is_file(),
    "steps": steps,
}}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client's folder: to build it leaves files there."""
    copy = tmp_path_factory.mktemp("source") / "client"
    return shutil.copytree(ROOT / "client", copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))


@pytest.fixture(scope="module")
def python(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the client from its folder and what it requires, at pinned versions."""
    folder = tmp_path_factory.mktemp("client")
    subprocess.check_call([sys.executable, "-m", "venv", folder])
    python = folder / "bin" / "python"
    subprocess.check_call([python, *PIP, "install", "-c", ROOT / "constraints.txt", source])
    return python


@pytest.mark.parametrize("form", ["folder", "wheel"])
def test_the_client_calls_and_streams_from_an_environment_of_its_own(
    python: Path, source: Path, server: Server, tmp_path: Path, form: str
) -> None:
    assert server.url is not None
    if form == "wheel":
        subprocess.check_call([python, *PIP, "wheel", "--no-deps", "-w", tmp_path, source])
        (wheel,) = tmp_path.glob("baton_client-*.whl")
        subprocess.check_call([python, *PIP, "install", "--no-deps", "--force-reinstall", wheel])
    command = [python, "-P", "-c", SCRIPT, server.url]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "foreign": [],
        "metadata": [baton_client.__version__, "Apache-2.0"],
        "typed": True,
        "steps": [2, 1],
    }


def test_the_client_has_the_service_s_version() -> None:
    assert baton_client.__version__ == service.__version__
