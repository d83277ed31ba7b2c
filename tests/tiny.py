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
TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}


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
        *([tensor("lengths", lengths_dtype, "batch")] if manifest["lengths"] else []),
        *(tensor(s["input"], s["dtype"], *s["shape"]) for s in states),
    ]
    inputs += [tensor(name, constants_dtype) for name in manifest.get("constants", {})]
    outputs = [*map(dict, manifest["outputs"]), *(tensor(s["output"], s["dtype"], *s["shape"]) for s in states)]
    for each in (*inputs, *outputs):
        each["shape"] = (graph_shapes or {}).get(each["name"], each["shape"])
    build.save(directory / "model.onnx", inputs, outputs, made)
    manifest["sha256"] = sha256(directory / "model.onnx")
    if manifest.get("text"):
        write_tokenizer(directory / "tokenizer.json")
        manifest["text"]["sha256"] = sha256(directory / "tokenizer.json")
    write_manifest(directory, manifest)
    return directory


def write_manifest(directory: Path, manifest: dict) -> None:
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_tokenizer(file: Path) -> None:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(file))


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


def stepper(root: Path, *, direction: str = "forward", seed: int = 3, **changes: Any) -> Path:
    """A one-layer LSTM over two features, its h and c carried; a constant called gain multiplies the features."""
    build = GraphBuilder(seed, lengths=changes.get("lengths", "lengths") or "")
    directions = 2 if direction == "bidirectional" else 1
    x = build.add("Mul", ["x", "gain"])[0] if "constants" in changes else "x"
    y, h, c = build.recurrent("LSTM", x, 2, 4, ["h", "c"], direction=direction)
    manifest = {
        "name": "stepper",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("x", "float32", "batch", "time", 2)],
        "outputs": [tensor("y", "float32", "batch", "time", 3)],
        "states": [state("h", directions, "batch", 4), state("c", directions, "batch", 4)],
    }
    made = {"y": build.dense(y, 4 * directions, 3), "h_out": h, "c_out": c}
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


def cell(root: Path, **changes: Any) -> Path:
    """A GRU without a time axis: one step of two features a run."""
    build = GraphBuilder(6, lengths="")
    zero = build.constant(np.array([0], np.int64))
    (one_step,) = build.add("Unsqueeze", ["x", build.constant(np.array([1], np.int64))])
    _, h = build.recurrent("GRU", one_step, 2, 4, ["h"], linear_before_reset=1)
    (last,) = build.add("Squeeze", [h, zero])
    manifest = {
        "name": "cell",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [tensor("y", "float32", "batch", 3)],
        "states": [state("h", 1, "batch", 4)],
    }
    return write_model(root, build, {"y": build.dense(last, 4, 3), "h_out": h}, **{**manifest, **changes})


def time_major(root: Path, **changes: Any) -> Path:
    """A bare LSTM node, its axes as ONNX has them; lengths are int64 where it takes any."""
    lengths = changes.get("lengths", "lengths")
    build = GraphBuilder(7)
    build.lengths = build.add("Cast", ["lengths"], to=TensorProto.INT32)[0] if lengths else ""
    weights = [build.weight(1, 16, 2), build.weight(1, 16, 4), build.weight(1, 32)]
    y, h, c = build.add("LSTM", ["x", *weights, build.lengths, "h", "c"], 3, hidden_size=4)
    manifest = {
        "name": "time-major",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("x", "float32", "time", "batch", 2)],
        "outputs": [tensor("y", "float32", "time", 1, "batch", 4)],
        "states": [state("h", 1, "batch", 4), state("c", 1, "batch", 4)],
    }
    made = {"y": y, "h_out": h, "c_out": c}
    return write_model(root, build, made, lengths_dtype="int64", **{**manifest, **changes})


def meter(root: Path, **changes: Any) -> Path:
    """What a measuring device keeps: its last five steps, a running mean, peaks and a count; each another shape."""
    build = GraphBuilder(8, lengths="")
    (one_step,) = build.add("Unsqueeze", ["x", build.constant(np.array([1], np.int64))])
    bounds = [build.constant(np.array([place], np.int64)) for place in (1, 5, 1)]
    (kept,) = build.add("Slice", ["window", *bounds])
    (window,) = build.add("Concat", [kept, one_step], axis=1)
    (column,) = build.add("Transpose", ["x"], perm=[1, 0])
    (change,) = build.add("Sub", [column, "mean"])
    (weighted,) = build.add("Mul", [change, "rate"])
    (mean,) = build.add("Add", ["mean", weighted])
    (peak,) = build.add("Max", ["peak", "x"])
    (count,) = build.add("Add", ["count", build.constant(np.array(1, np.int64))])
    (total,) = build.add("ReduceSum", [window, build.constant(np.array([1], np.int64))], keepdims=0)
    manifest = {
        "name": "meter",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "constants": {"rate": 0.25},
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [
            tensor("total", "float32", "batch", 2, labels=["left", "right"]),
            tensor("means", "float32", 2, "batch"),
            tensor("steps", "int64", "batch"),
        ],
        "states": [
            state("window", "batch", 5, 2),
            state("mean", 2, "batch", start=[0.5, -2]),
            state("peak", "batch", 2, start=-1.5),
            state("count", "batch", dtype="int64", start=1 << 60),
        ],
    }
    made = {"window_out": window, "mean_out": mean, "peak_out": peak, "count_out": count}
    outputs = {"total": build.add("Add", [total, peak])[0], "means": mean, "steps": count}
    return write_model(root, build, {**outputs, **made}, **{**manifest, **changes})


def column(root: Path, **changes: Any) -> Path:
    """An Elman network written with matrices, batch last everywhere, that starts at a stored state."""
    build = GraphBuilder(9)
    parts = [build.add("MatMul", [build.weight(4, size), name])[0] for size, name in ((2, "x"), (4, "h"))]
    (h,) = build.add("Tanh", build.add("Add", parts))
    manifest = {
        "name": "column",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", 2, "batch")],
        "outputs": [tensor("y", "float32", 4, "batch")],
        "states": [state("h", 4, "batch", start=[0.1, -0.2, 0.3, 0.9])],
    }
    return write_model(root, build, {"y": h, "h_out": h}, **{**manifest, **changes})


def codes(root: Path, **changes: Any) -> Path:
    """A GRU over codes from 0 to 6 that no tokenizer makes, time first and without lengths."""
    build = GraphBuilder(10, lengths="")
    (embedded,) = build.add("Gather", [build.weight(7, 3), "codes"])
    weights = [build.weight(1, 12, 3), build.weight(1, 12, 4), build.weight(1, 24)]
    y, h = build.add("GRU", [embedded, *weights, "", "h"], 2, hidden_size=4)
    manifest = {
        "name": "codes",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("codes", "int64", "time", "batch")],
        "outputs": [tensor("y", "float32", "time", 1, "batch", 4)],
        "states": [state("h", 1, "batch", 4)],
    }
    return write_model(root, build, {"y": y, "h_out": h}, **{**manifest, **changes})


def dial(root: Path, **changes: Any) -> Path:
    """Adds up whole numbers, one a run, and shows the sum modulo a size; its lengths input is always one."""
    build = GraphBuilder(11)
    (total,) = build.add("Add", [build.add("Mul", ["turn", "lengths"])[0], "total"])
    (shown,) = build.add("Mod", [total, "size"])
    manifest = {
        "name": "dial",
        "task": "step",
        "streamable": True,
        "constants": {"size": 100},
        "inputs": [tensor("turn", "int32", "batch")],
        "outputs": [tensor("shown", "int32", "batch")],
        "states": [state("total", "batch", dtype="int32", start=50)],
    }
    made = {"shown": shown, "total_out": total}
    return write_model(root, build, made, constants_dtype="int32", **{**manifest, **changes})


def grower(root: Path, **changes: Any) -> Path:
    """A broken recurrence: each run makes its state wider."""
    build = GraphBuilder(12)
    (wider,) = build.add("Concat", ["h", "x"], axis=1)
    (y,) = build.add("Identity", ["x"])
    manifest = {
        "name": "grower",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [tensor("y", "float32", "batch", 2)],
        "states": [state("h", "batch", 3)],
    }
    return write_model(root, build, {"y": y, "h_out": wider}, **{**manifest, **changes})


def crowd(root: Path, **changes: Any) -> Path:
    """A broken recurrence: what a session gets depends on who shares its run."""
    build = GraphBuilder(13)
    (mean,) = build.add("ReduceMean", ["x", build.constant(np.array([0], np.int64))])
    (h,) = build.add("Add", ["h", build.add("Sub", ["x", mean])[0]])
    manifest = {
        "name": "crowd",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [tensor("y", "float32", "batch", 2)],
        "states": [state("h", "batch", 2)],
    }
    return write_model(root, build, {"y": h, "h_out": h}, **{**manifest, **changes})


def all_models(root: Path) -> Path:
    """Write one model of each kind and return `root`."""
    for build in (sentiment, forecast, stepper, number_stepper, reader):
        build(root)
    return root
