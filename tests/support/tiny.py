"""Tiny recurrent ONNX models, built node by node, so that the service is tested without torch.

Weights are random with a fixed seed; what the tests assert are equivalences, not values.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

WORDS = ("[PAD]", "[UNK]", "a", "good", "bad", "film", "not", "very", "!")
LABELS = ("negative", "positive")
QUANTILES = (0.1, 0.5, 0.9)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    **{name.lower(): TensorProto.DataType.Value(name) for name in ("FLOAT16", "BFLOAT16", "BOOL", "STRING")},
    **{f"int{bits}": TensorProto.DataType.Value(f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": TensorProto.DataType.Value(f"UINT{bits}") for bits in (8, 16, 32, 64)},
}


class GraphBuilder:
    """A graph in the making: `add` appends a node and returns its outputs' names."""

    def __init__(self, seed: int = 0, lengths: str = "lengths") -> None:
        self.lengths = lengths  # "" for graphs that take no lengths
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"{op.lower()}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape, scale=0.5).astype(np.float32))

    def recurrent(self, cell: str, x: str, size: int, hidden: int, states: list[str], **attributes: Any) -> list[str]:
        """Add one recurrent node over x [batch, time, size]; return y [batch, time, hidden * directions] and finals."""
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        gates = GATES[cell] * hidden
        weights = [self.weight(directions, gates, size), self.weight(directions, gates, hidden)]
        (by_time,) = self.add("Transpose", [x], perm=[1, 0, 2])
        bias = self.weight(directions, 2 * gates)
        inputs = [by_time, *weights, bias, self.lengths, *states]
        y, *finals = self.add(cell, inputs, 3 if cell == "LSTM" else 2, hidden_size=hidden, **attributes)
        (batch_first,) = self.add("Transpose", [y], perm=[2, 0, 1, 3])
        shape = self.constant(np.array([0, 0, directions * hidden], np.int64))
        (rows,) = self.add("Reshape", [batch_first, shape])
        return [rows, *finals]

    def dense(self, x: str, size: int, out: int) -> str:
        return self.add("Add", [self.add("MatMul", [x, self.weight(size, out)])[0], self.weight(out)])[0]

    def save(self, file: Path, inputs: list[dict], outputs: list[dict], made: dict[str, str]) -> None:
        """Write the graph; `made` maps each declared output to the tensor that becomes it."""
        for declared, tensor in made.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [declared]))
        graph = helper.make_graph(
            self.nodes, "tiny", [_value(t) for t in inputs], [_value(t) for t in outputs], self.constants
        )
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), file)


def _value(tensor: dict) -> Any:
    return helper.make_tensor_value_info(tensor["name"], TYPES[tensor["dtype"]], tensor["shape"])


def tensor(name: str, dtype: str, *shape: int | str, **more: Any) -> dict:
    return {"name": name, "dtype": dtype, "shape": list(shape), **more}


def write_model(
    root: Path,
    build: GraphBuilder,
    made: dict[str, str],
    *,
    lengths_dtype: str = "int32",
    constants_dtype: str = "float32",
    graph_shapes: dict[str, list[int | str]] | None = None,
    tokenizer: Tokenizer | None = None,
    **manifest: Any,
) -> Path:
    """Write models directory entry `root/<name>/<version>` and return it.

    The graph declares its tensors as the manifest does, but for those in `graph_shapes`.
    """
    manifest = {"schema_version": 1, "version": "1", "file": "model.onnx", "lengths": "lengths", **manifest}
    directory = root / manifest["name"] / manifest["version"]
    directory.mkdir(parents=True)
    states = manifest.get("states", [])
    inputs = [
        *map(dict, manifest["inputs"]),
        *(
            tensor(manifest[name], lengths_dtype, "batch")
            for name in ("lengths", "memory_lengths")
            if manifest.get(name)
        ),
        *(tensor(s["input"], s["dtype"], *s["shape"]) for s in states),
    ]
    inputs += [tensor(name, constants_dtype, *np.shape(value)) for name, value in manifest.get("constants", {}).items()]
    outputs = [*map(dict, manifest["outputs"])]
    answers = [output["name"] for output in outputs]
    handed_on = [s for s in states if s.get("output", answers[0]) not in answers]
    outputs += [tensor(s["output"], s["dtype"], *s["shape"]) for s in handed_on]
    for each in (*inputs, *outputs):
        each["shape"] = (graph_shapes or {}).get(each["name"], each["shape"])
    build.save(directory / "model.onnx", inputs, outputs, made)
    manifest["sha256"] = sha256(directory / "model.onnx")
    if manifest.get("text"):
        (tokenizer or words()).save(str(directory / "tokenizer.json"))
        manifest["text"]["sha256"] = sha256(directory / "tokenizer.json")
    write_manifest(directory, manifest)
    return directory


def write_manifest(directory: Path, manifest: dict) -> None:
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def words() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def text_settings(**more: Any) -> dict:
    return {"tokenizer": "tokenizer.json", "max_length": 16, "unknown_token": "[UNK]", "polarity": [-1, 1], **more}


def sentiment(root: Path, **changes: Any) -> Path:
    """A bidirectional LSTM over words; scores of two labels."""
    build = GraphBuilder(1)
    (embedded,) = build.add("Gather", [build.weight(len(WORDS), 3), "ids"])
    _, h, _ = build.recurrent("LSTM", embedded, 3, 4, [], direction="bidirectional")
    (by_row,) = build.add("Transpose", [h], perm=[1, 0, 2])
    (flat,) = build.add("Reshape", [by_row, build.constant(np.array([0, 8], np.int64))])
    (scores,) = build.add("Softmax", [build.dense(flat, 8, 2)], axis=-1)
    manifest = {
        "name": "sentiment",
        "task": "sentiment",
        "inputs": [tensor("ids", "int32", "batch", "time")],
        "outputs": [tensor("scores", "float32", "batch", 2, labels=LABELS)],
        "text": text_settings(),
    }
    return write_model(root, build, {"scores": scores}, **{**manifest, **changes})


def forecast(root: Path, **changes: Any) -> Path:
    """A GRU over raw values; horizon 4, three quantiles."""
    build = GraphBuilder(2)
    axes = build.constant(np.array([2], np.int64))
    (column,) = build.add("Unsqueeze", ["values", axes])
    _, h = build.recurrent("GRU", column, 1, 4, [], linear_before_reset=1)
    (last,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    shape = build.constant(np.array([0, 4, 3], np.int64))
    (quantiles,) = build.add("Reshape", [build.dense(last, 4, 12), shape])
    manifest = {
        "name": "forecast",
        "task": "forecast",
        "inputs": [tensor("values", "float32", "batch", "time")],
        "outputs": [tensor("mean", "float32", "batch", 4), tensor("quantiles", "float32", "batch", 4, 3)],
        "forecast": {"min_history": 3, "max_history": 16, "horizon": 4, "quantiles": QUANTILES},
    }
    return write_model(
        root, build, {"mean": build.dense(last, 4, 4), "quantiles": quantiles}, **{**manifest, **changes}
    )


def state(input_name: str, *shape: int | str, dtype: str = "float32", **more: Any) -> dict:
    return {"input": input_name, "output": f"{input_name}_out", "dtype": dtype, "shape": list(shape), **more}


def stepper(root: Path, *, direction: str = "forward", seed: int = 3, output: str = "y", **changes: Any) -> Path:
    """A one-layer LSTM over two features, its h and c carried; a constant called gain, one number or one for each
    feature, multiplies the features."""
    build = GraphBuilder(seed, lengths=changes.get("lengths", "lengths") or "")
    directions = 2 if direction == "bidirectional" else 1
    x = build.add("Mul", ["x", "gain"])[0] if "constants" in changes else "x"
    y, h, c = build.recurrent("LSTM", x, 2, 4, ["h", "c"], direction=direction)
    manifest = {
        "name": "stepper",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("x", "float32", "batch", "time", 2)],
        "outputs": [tensor(output, "float32", "batch", "time", 3)],
        "states": [state("h", directions, "batch", 4), state("c", directions, "batch", 4)],
    }
    made = {output: build.dense(y, 4 * directions, 3), "h_out": h, "c_out": c}
    return write_model(root, build, made, **{**manifest, **changes})


def number_stepper(root: Path, **changes: Any) -> Path:
    """A ReLU RNN over single numbers that sums without bound: finite inputs can drive it to infinity."""
    build = GraphBuilder(4)
    (column,) = build.add("Unsqueeze", ["x", build.constant(np.array([2], np.int64))])
    (by_time,) = build.add("Transpose", [column], perm=[1, 0, 2])
    ones, doubled = (build.constant(np.array([[[v]]], np.float32)) for v in (1, 2))
    y, h = build.add("RNN", [by_time, ones, doubled, "", "lengths", "h"], 2, hidden_size=1, activations=["Relu"])
    (batch_first,) = build.add("Transpose", [y], perm=[2, 0, 1, 3])
    (rows,) = build.add("Reshape", [batch_first, build.constant(np.array([0, 0, 1], np.int64))])
    manifest = {
        "name": "numbers",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("x", "float32", "batch", "time")],
        "outputs": [tensor("total", "float32", "batch", "time", 1)],
        "states": [state("h", 1, "batch", 1)],
    }
    return write_model(root, build, {"total": rows, "h_out": h}, **{**manifest, **changes})


def reader(root: Path, **changes: Any) -> Path:
    """A GRU that scores a text after each word."""
    build = GraphBuilder(5)
    (embedded,) = build.add("Gather", [build.weight(len(WORDS), 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, 4, ["h"], linear_before_reset=1)
    (scores,) = build.add("Softmax", [build.dense(y, 4, 2)], axis=-1)
    manifest = {
        "name": "reader",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("ids", "int32", "batch", "time")],
        "outputs": [tensor("scores", "float32", "batch", "time", 2, labels=LABELS)],
        "states": [state("h", 1, "batch", 4)],
        "text": text_settings(),
    }
    return write_model(root, build, {"scores": scores, "h_out": h}, **{**manifest, **changes})


def all_models(root: Path) -> Path:
    """Write one model of each kind and return `root`."""
    for build in (sentiment, forecast, stepper, number_stepper, reader):
        build(root)
    return root
