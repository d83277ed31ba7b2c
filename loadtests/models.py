"""The models that are measured: the committed ones, and an LSTM 2x256 that is the reference for steps.

It knows manifests and ONNX graphs. The reference's weights are random from a fixed seed: what a step costs does not
depend on them. Invariant: its session state is 4 KiB.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, save

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "models"
STEP_MODEL = "lstm-2x256"
LAYERS, HIDDEN, FEATURES, OUTPUTS = 2, 256, 16, 8
GATES = 4 * HIDDEN
Declared = dict[str, Any]


def newest(name: str, models: Path = COMMITTED) -> Path:
    """Return the directory of a model's newest version."""
    return max((models / name).iterdir(), key=lambda version: int(version.name))


def gather_models(directory: Path) -> Path:
    """Make `directory` a models directory: links to the committed models, and the LSTM 2x256; return it."""
    for model in COMMITTED.iterdir():
        (directory / model.name).symlink_to(model)
    _write_reference(directory / STEP_MODEL / "1")
    return directory


def _write_reference(directory: Path) -> None:
    directory.mkdir(parents=True)
    file = directory / "model.onnx"
    sequence: Declared = {"name": "x", "dtype": "float32", "shape": ["batch", "time", FEATURES]}
    output: Declared = {"name": "y", "dtype": "float32", "shape": ["batch", "time", OUTPUTS]}
    states: list[Declared] = [
        {"input": name, "output": f"{name}_out", "dtype": "float32", "shape": [1, "batch", HIDDEN]}
        for layer in range(LAYERS)
        for name in (f"h{layer}", f"c{layer}")
    ]
    nodes, weights = _nodes()
    inputs = [
        _float("x", sequence["shape"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        *(_float(state["input"], state["shape"]) for state in states),
    ]
    outputs = [_float("y", output["shape"]), *(_float(state["output"], state["shape"]) for state in states)]
    graph = helper.make_graph(nodes, STEP_MODEL, inputs, outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), file)
    manifest = {
        "schema_version": 1,
        "name": STEP_MODEL,
        "version": directory.name,
        "task": "step",
        "description": "An LSTM of 2 layers of 256 with random weights: what a step costs.",
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "inputs": [sequence],
        "outputs": [output],
        "lengths": "lengths",
        "states": states,
        "streamable": True,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _nodes() -> tuple[list[NodeProto], list[TensorProto]]:
    rng = np.random.default_rng(0)
    weights: list[TensorProto] = []

    def constant(name: str, value: np.ndarray[Any, Any]) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(name: str, *shape: int) -> str:
        bound = HIDDEN**-0.5
        return constant(name, rng.uniform(-bound, bound, size=shape).astype(np.float32))

    axis = constant("direction_axis", np.array([1], np.int64))
    nodes = [helper.make_node("Transpose", ["x"], ["below0"], perm=[1, 0, 2])]
    for layer, size in enumerate((FEATURES, HIDDEN)):
        inputs = [
            f"below{layer}",
            weight(f"w{layer}", 1, GATES, size),
            weight(f"r{layer}", 1, GATES, HIDDEN),
            weight(f"b{layer}", 1, 2 * GATES),
            "lengths",
            f"h{layer}",
            f"c{layer}",
        ]
        made = [f"all{layer}", f"h{layer}_out", f"c{layer}_out"]
        nodes.append(helper.make_node("LSTM", inputs, made, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"all{layer}", axis], [f"below{layer + 1}"]))
    nodes += [
        helper.make_node("Transpose", [f"below{LAYERS}"], ["by_row"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["by_row", weight("dense", HIDDEN, OUTPUTS)], ["product"]),
        helper.make_node("Add", ["product", weight("bias", OUTPUTS)], ["y"]),
    ]
    return nodes, weights


def _float(name: str, shape: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
