"""`make serve` in a copy of the project, with no environment yet: it installs what serving needs, and serves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from conftest import ROOT, ServerFactory

NEEDED = ("Makefile", "README.md", "constraints.txt", "pyproject.toml", "models", "service", "training")
NOT_NEEDED = ("torch", "onnx", "redis", "matplotlib", "pyarrow", "pytest")


def test_make_serve_installs_and_serves_the_committed_models(tmp_path: Path, start_server: ServerFactory) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    server = start_server(project / "models", tmp_path / "state", command=("make", "VENV=.venv"), cwd=project)
    assert "<title>Baton</title>" in server.client.get("/").text
    served = {model["name"] for model in server.client.get("/v1/models").json()["models"]}
    assert served == {path.name for path in (ROOT / "models").iterdir()}
    server.stop()
    script = f"import importlib.util as u; print([n for n in {NOT_NEEDED} if u.find_spec(n)])"
    found = subprocess.run([project / ".venv/bin/python", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
