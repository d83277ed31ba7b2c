"""Tiny models that somebody made to harm who loads them, changed from sound ones.

What rewrites a version brings the hashes in its manifest up to date, and returns its directory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import tiny
from onnx import ModelProto, TensorProto, helper
from tokenizers import Tokenizer


def rewrite_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sha256"] = tiny.sha256(directory / manifest["file"])
    if "text" in manifest:
        manifest["text"]["sha256"] = tiny.sha256(directory / "tokenizer.json")
    change(manifest)
    tiny.write_manifest(directory, manifest)
    return directory


def rewrite_graph(directory: Path, change: Callable[[ModelProto], object]) -> Path:
    file = directory / "model.onnx"
    model = onnx.load(file)
    change(model)
    file.write_bytes(model.SerializeToString())
    return rewrite_manifest(directory, lambda manifest: None)


def rewrite_tokenizer(directory: Path, change: Callable[[str], str]) -> Path:
    file = directory / "tokenizer.json"
    file.write_text(change(file.read_text()))
    return rewrite_manifest(directory, lambda manifest: None)


def set_tokenizer(directory: Path, **parts: Any) -> Path:
    """Give the tokenizer a `normalizer` or a `pre_tokenizer`."""

    def change(text: str) -> str:
        tokenizer = Tokenizer.from_str(text)
        for name, part in parts.items():
            setattr(tokenizer, name, part)
        return tokenizer.to_str()

    return rewrite_tokenizer(directory, change)


def move_weights_out(model: ModelProto, location: str) -> None:
    """Have the first weights read from a file that ONNX calls external."""
    _move_out(model.graph.initializer[0], {"location": location})


def move_constant_out(model: ModelProto, location: str) -> None:
    """The same, where the weights are what a node makes."""
    weights = model.graph.initializer.pop(0)
    _move_out(weights, {"location": location})
    model.graph.node.insert(0, helper.make_node("Constant", [], [weights.name], value=weights))


def read_memory(model: ModelProto, location: str) -> None:
    """Have the first weights read from an address of the process, as ONNX Runtime marks its own."""
    weights = model.graph.initializer[0]
    size = str(len(weights.raw_data))
    _move_out(weights, {"location": "*/_ORT_MEM_ADDR_/*", "offset": "4096", "length": size})


def _move_out(tensor: TensorProto, where: Mapping[str, str]) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)


def call_stranger(model: ModelProto) -> None:
    """Call an operator of a domain that only the attacker's library would have."""
    _call(model, "stranger", "Run")


def call_itself(model: ModelProto) -> None:
    """Call a function that calls itself."""
    _call(model, "own", "Again")
    model.functions.append(_function("Again", ["Again"]))


def call_doubling(model: ModelProto) -> None:
    """Call a function that calls another twice, and so on, which makes two billion nodes of a few kilobytes."""
    _call(model, "own", "F0")
    for depth in range(30):
        model.functions.append(_function(f"F{depth}", [f"F{depth + 1}"] * 2))
    model.functions.append(_function("F30", []))


def _call(model: ModelProto, domain: str, operator: str) -> None:
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.node.insert(0, helper.make_node(operator, ["x"], ["called"], domain=domain))


def _function(name: str, calls: list[str]) -> onnx.FunctionProto:
    """Return a function of the domain `own` that calls others in turn."""
    given = ["given", *(f"made_{place}" for place in range(len(calls)))]
    nodes = [helper.make_node(call, [given[i]], [given[i + 1]], domain="own") for i, call in enumerate(calls)]
    nodes.append(helper.make_node("Neg", given[-1:], ["last"]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["given"], ["last"], nodes, opsets)


def lie_about_weights(model: ModelProto) -> None:
    """Say of the first weights that they are four million terabytes."""
    model.graph.initializer[0].dims[:] = [2**40, 2**20]


def free_axes(model: ModelProto) -> None:
    """Say nothing of the sizes of inputs and outputs, so that the manifest may say anything."""
    for value in (*model.graph.input, *model.graph.output):
        for place, axis in enumerate(value.type.tensor_type.shape.dim):
            axis.dim_param = f"{value.name}_{place}"
