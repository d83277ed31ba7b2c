"""What `make serve` installs where nothing is, and the wheel in its place: neither has training's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, Server, ServerFactory

from service.page.files import documents_files, playground_files

NEEDED = ("Makefile", "README.md", "constraints.txt", "pyproject.toml", "models", "service", "training")
FOREIGN = (
    *("torch", "sklearn", "pandas", "utilsforecast", "onnx", "onnxscript", "lightning", "torchmetrics", "matplotlib"),
    *("pytest", "redis", "pyarrow"),
)


@dataclass(frozen=True)
class Made:
    """What `make serve` made of a copy of the project in a folder, and what it served."""

    folder: Path
    page: str
    models: set[str]

    @property
    def python(self) -> Path:
        return self.folder / ".venv" / "bin" / "python"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("project")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    state = tmp_path_factory.mktemp("state")
    server = Server(folder / "models", state, command=("make", "VENV=.venv"), cwd=folder)
    page, answer = server.client.get("/").text, server.client.get("/v1/models").json()
    server.stop()
    return Made(folder, page, {model["name"] for model in answer["models"]})


@pytest.fixture(scope="module")
def wheel_python(made: Made) -> Path:
    """The interpreter of the same environment, with the wheel in place of the project's folder."""
    pip = [made.python, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.check_call([*pip, "wheel", "--no-deps", "-w", made.folder / "dist", made.folder])
    subprocess.check_call([*pip, "uninstall", "-y", "baton-serving"])
    (wheel,) = (made.folder / "dist").glob("*.whl")
    subprocess.check_call([*pip, "install", "-c", ROOT / "constraints.txt", wheel])
    return made.python


def found(python: Path) -> str:
    script = f"import importlib.util as u; print([n for n in {FOREIGN} if u.find_spec(n)])"
    return subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_make_serve_installs_and_serves_the_committed_models(made: Made) -> None:
    assert "<title>Baton</title>" in made.page
    assert made.models == {path.name for path in (ROOT / "models").iterdir()}
    assert found(made.python) == "[]"


def test_the_wheel_wants_none_of_training_s_packages(wheel_python: Path) -> None:
    assert found(wheel_python) == "[]"


def test_the_wheel_holds_the_recipes(wheel_python: Path, tmp_path: Path) -> None:
    """They are found beside the installed package, as training looks for them."""
    script = (
        "import pathlib, training as t; print(*(p.name for p in pathlib.Path(t.__file__).parent.glob('recipes/*')))"
    )
    command = [wheel_python, "-P", "-c", script]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert set(found.stdout.split()) == {file.name for file in (ROOT / "training" / "recipes").iterdir()} != set()


def test_the_wheel_holds_the_files_of_a_new_project(wheel_python: Path, tmp_path: Path) -> None:
    command = [wheel_python.with_name("baton"), "new", "demo"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    made = {file.name for file in (tmp_path / "demo").iterdir()} - {"models"}
    assert made == {file.stem for file in (ROOT / "service" / "cli" / "project").iterdir()} != set()


def test_the_wheel_serves(wheel_python: Path, tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(
        tiny_models, tmp_path / "state", command=(str(wheel_python), "-P", "-m", "service"), cwd=tmp_path
    )
    body = {"model": "stepper", "items": [{"inputs": [[1, 2]]}]}
    assert server.post("/v1/step", body).json()["results"][0]["step"] == 1
    for file in (*playground_files(), *documents_files()):
        assert server.client.get(file).status_code == 200, file
    server.stop()


def test_the_installed_command_serves_with_several_workers(
    wheel_python: Path, tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Each worker imports anew what the supervisor was started with: here a script, above a package."""
    command = (str(wheel_python.with_name("baton")),)
    server = start_server(tiny_models, tmp_path / "state", command=command, cwd=tmp_path, BATON_WORKERS="2")
    assert server.client.get("/readyz").status_code == 200
    server.stop()
    assert server.process.returncode == 0


def test_export_names_the_extra_that_it_needs(wheel_python: Path, tmp_path: Path) -> None:
    """The service's environment has no PyTorch: the command says so, and what brings it."""
    command = [wheel_python.with_name("baton"), "export", "model.py:build"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "baton: export needs torch, onnx, onnxscript, lightning, which the extra train brings: "
        "pip install 'baton-serving[train]'\n"
    )


def test_the_baton_command_is_installed(wheel_python: Path, tiny_models: Path) -> None:
    command = [wheel_python.with_name("baton"), "models", str(tiny_models)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "120"})
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [
        *("forecast", "numbers", "reader", "sentiment", "stepper")
    ]
