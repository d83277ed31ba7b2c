"""The import directions of the house, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (  # a folder or file of the service imports what stands in the rows above its own, and nothing else
    {"__init__", "errors", "metrics"},
    {"contract", "settings", "batching"},
    {"model"},
    {"engine"},
    {"state"},
    {"web"},
    {"endpoints", "inspect", "page"},
    {"app", "launch"},
    {"workers", "ray"},
    {"cli"},
    {"__main__"},
)
LEVEL = {place: level for level, row in enumerate(ORDER) for place in row}
NEVER_IN_SERVICE = {
    "baton_client",
    "lightning",
    "matplotlib",
    "onnx",
    "onnxscript",
    "pandas",
    "pooch",
    "sacrebleu",
    "sklearn",
    "torch",
    "torchmetrics",
    "training",
    "utilsforecast",
}
PICTURES = "service.cli.plot"


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def imports(file: Path) -> set[str]:
    """Return every module that `file` imports, at any depth of the code; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, f"{file}: imports are absolute here"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def place(module: str) -> str:
    """Return the folder or file at the top of the service that `module` is, or is in."""
    return module.split(".")[1] if "." in module else "__init__"


def used(module: str) -> set[str]:
    """Return the modules that a module of the service imports; a folder's own docstring is no module."""
    return imports(modules("service")[module]) & set(modules("service")) - FOLDERS


FOLDERS = {name for name, file in modules("service").items() if file.name == "__init__.py" and name != "service"}


def test_every_folder_and_file_of_the_service_has_its_row() -> None:
    assert {place(module) for module in modules("service")} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(modules("service")))
def test_a_module_of_the_service_imports_only_from_the_rows_above(module: str) -> None:
    others = {name for name in used(module) if place(name) != place(module)}
    assert not {name for name in others if LEVEL[place(name)] >= LEVEL[place(module)]}


@pytest.mark.parametrize("folder", sorted({place(module) for module in FOLDERS}))
def test_no_modules_of_a_folder_import_each_other_in_a_circle(folder: str) -> None:
    left = {module: used(module) for module in modules("service") if place(module) == folder}
    while free := [module for module, names in left.items() if not names & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_endpoints_never_import_one_another() -> None:
    """An endpoint is a file of its folder, or a folder of files that share what they read and show."""
    endpoints = {module: module.split(".")[2] for module in modules("service") if module.count(".") > 1}
    endpoints = {module: name for module, name in endpoints.items() if place(module) == "endpoints"}
    for module, own in endpoints.items():
        assert {endpoints[name] for name in used(module) if name in endpoints} <= {own}


@pytest.mark.parametrize("module", sorted(modules("service")))
def test_the_service_never_imports_what_only_training_needs(module: str) -> None:
    allowed = {"matplotlib"} if module == PICTURES else set()
    assert not {name.split(".")[0] for name in imports(modules("service")[module])} & NEVER_IN_SERVICE - allowed


def test_pictures_are_drawn_in_one_place() -> None:
    read = {module: imports(file) for module, file in modules("service").items()}
    importers = {module for module, names in read.items() if any(found.startswith("matplotlib") for found in names)}
    assert importers == {PICTURES}


def test_telemetry_is_known_where_spans_are_made_and_sent() -> None:
    read = {module: imports(file) for module, file in modules("service").items()}
    importers = {module for module, names in read.items() if any("opentelemetry" in name for name in names)}
    assert importers == {"service.web.tracing", "service.web.exporting"}
    users = {module for module in modules("service") if used(module) & importers}
    assert users == {"service.web.tracing", "service.workers.worker"}


def test_onnxruntime_has_one_importer() -> None:
    importers = {module for module, file in modules("service").items() if "onnxruntime" in imports(file)}
    assert importers == {"service.model.onnx_session"}
