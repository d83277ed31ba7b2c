"""The import directions of the house, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    {"service", "service.errors", "service.tensors"},
    {
        "service.contract",
        "service.settings",
        "service.metrics",
        "service.auth",
        "service.logs",
        "service.heads",
        "service.websocket",
    },
    {"service.submission", "service.waiting", "service.frequency"},
    {
        "service.runtime",
        "service.batching",
        "service.state",
        "service.state.halving",
        "service.state.store",
        "service.state.token",
        "service.wire",
    },
    {"service.graph", "service.names", "service.trial"},
    {"service.forward", "service.hints"},
    {"service.repository", "service.roles"},
    {"service.engine", "service.measuring"},
    {"service.engines", "service.probe", "service.reading"},
    {"service.sessions", "service.warmup", "service.doubts"},
    {"service.call", "service.steps", "service.history", "service.preparation", "service.inspection"},
    {"service.loading"},
    {"service.frames", "service.http", "service.freeing"},
    {"service.items"},
    {
        "service.endpoints",
        "service.endpoints.sentiment",
        "service.endpoints.forecast",
        "service.endpoints.step",
        "service.endpoints.state",
        "service.endpoints.stream",
        "service.endpoints.models",
        "service.endpoints.health",
        "service.endpoints.upgrade",
    },
    {"service.app"},
    {"service.workers"},
    {"service.cli"},
    {"service.__main__"},
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}
NEVER_IN_SERVICE = {"torch", "onnx", "onnxscript", "lightning", "training", "matplotlib", "torchmetrics", "pooch"}
SHARED_WITH_TRAINING = {"service.contract", "service.tensors", "service.errors"}


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


def test_every_module_of_the_service_has_its_layer() -> None:
    assert set(modules("service")) == set(LEVEL)


@pytest.mark.parametrize("module", sorted(modules("service")))
def test_a_module_of_the_service_imports_only_from_lower_layers(module: str) -> None:
    ours = {name for name in imports(modules("service")[module]) if name in LEVEL} - {"service"}
    above = {name for name in ours if LEVEL[name] >= LEVEL[module]}
    assert not above


@pytest.mark.parametrize("module", sorted(modules("service")))
def test_the_service_never_imports_what_only_training_needs(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(modules("service")[module])} & NEVER_IN_SERVICE


def test_onnxruntime_has_one_importer() -> None:
    importers = {module for module, file in modules("service").items() if "onnxruntime" in imports(file)}
    assert importers == {"service.runtime"}


@pytest.mark.parametrize("module", sorted(modules("training")))
def test_training_shares_contract_tensors_and_errors_with_the_service_and_nothing_else(module: str) -> None:
    used = {name for name in imports(modules("training")[module]) if name in LEVEL} - {"service"}
    assert used <= SHARED_WITH_TRAINING
