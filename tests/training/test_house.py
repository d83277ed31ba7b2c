"""The order of training's folders, read from the source: imports go one way, and tasks do not know each other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

TRAINING = ROOT / "training"
ORDER = (
    {"datasets", "evaluate", "networks", "old_cpu", "series"},
    {"export"},
    {"recipe"},
    {"fit", "report"},
    {"gradients", "publish", "tasks"},
    {"catalogue", "reporters"},
    {"cli"},
    {"__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(TRAINING.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES} - {TRAINING})


def own(file: Path) -> str:
    """Return the room that a file stands in, or is."""
    return file.relative_to(TRAINING).with_suffix("").parts[0]


def place(module: str) -> tuple[str, ...]:
    """Return the parts of a module's name below `training`, as far as they are folders or files."""
    parts = module.split(".")[1:]
    while parts and not (TRAINING.joinpath(*parts).is_dir() or TRAINING.joinpath(*parts).with_suffix(".py").is_file()):
        parts.pop()
    return tuple(parts)


def names(file: Path) -> set[str]:
    """Return the dotted names that `file` imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def imported(file: Path) -> set[tuple[str, ...]]:
    """Return the places of training that `file` imports from."""
    return {place(name) for name in names(file) if name.split(".")[0] == "training"} - {()}


def test_every_room_of_training_has_its_floor() -> None:
    assert {own(file) for file in FILES} == set(FLOOR)


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_imports_only_from_lower_floors(room: str) -> None:
    above = {
        (file.name, other)
        for file in FILES
        if own(file) == room
        for other, *_ in imported(file)
        if other != room and FLOOR[other] >= FLOOR[room]
    }
    assert not above


def test_training_imports_of_the_service_its_contract_its_errors_and_the_way_to_start_it() -> None:
    used = {name.split(".")[1] for file in FILES for name in names(file) if name.split(".")[0] == "service"}
    assert used <= {"contract", "errors", "launch"}


@pytest.mark.parametrize("task", sorted(folder.name for folder in FOLDERS if folder.parent == TRAINING / "tasks"))
def test_a_task_does_not_import_another(task: str) -> None:
    used = {parts[:2] for file in (TRAINING / "tasks" / task).glob("*.py") for parts in imported(file)}
    shared = {("tasks", name) for name in ("forecaster", "characters", "writer")}
    assert not {parts for parts in used if parts[0] == "tasks"} - {("tasks", task)} - shared


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(TRAINING)))
def test_a_folder_says_what_lives_there_and_what_it_does_not_know_and_which_invariant_it_keeps(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert docstring is not None
    what, empty, unknown, invariant = docstring.splitlines()
    assert what.endswith(".")
    assert not empty
    assert " know" in unknown
    assert invariant.startswith("Invariant: ")


def test_tests_stand_in_the_folders_of_what_they_test() -> None:
    folders = {folder.relative_to(TRAINING) for folder in FOLDERS}
    tests = Path(__file__).parent
    assert {file.parent.relative_to(tests) for file in tests.rglob("test_*.py")} <= folders | {Path()}


def test_the_docs_list_every_folder() -> None:
    """The table of docs/training.md has a row for each folder of modules, and no other."""
    rows = re.findall(r"^\| `([a-z_]+)/(?:<task>/)?` \|", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(folder.name for folder in FOLDERS if folder.parent == TRAINING)
