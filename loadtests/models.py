"""The models that are measured: the committed ones, an LSTM 2x256 for steps and a BiLSTM 2x128 for texts.

It knows manifests and ONNX graphs. The references' weights are random from a fixed seed: what a run costs does not
depend on them. Invariants: a session state of the LSTM is 4 KiB; each word that the BiLSTM reads is one token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from service.contract.files import read_manifest
from service.engine.engine import Engine
from service.metrics import Metrics, ModelMetrics
from service.model.repository import load_model
from service.settings import Settings

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "models"
STEP_MODEL, TEXT_MODEL, PLAIN_MODEL = "lstm-2x256", "bilstm-2x128", "bilstm-2x128-plain"
LAYERS, HIDDEN, FEATURES, OUTPUTS = 2, 256, 16, 8
WORDS, EMBEDDING, READER_HIDDEN = 8000, 128, 128
UNKNOWN = "[UNK]"
GRAPH_FILE = "model.onnx"
LENGTHS = helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"])
Declared = dict[str, Any]
IDS: Declared = {"name": "ids", "dtype": "int32", "shape": ["batch", "time"]}
SCORES: Declared = {"name": "scores", "dtype": "float32", "shape": ["batch", 2]}


def newest(name: str, models: Path = COMMITTED) -> Path:
    """Return the directory of a model's newest version."""
    return max((models / name).iterdir(), key=lambda version: int(version.name))


def engine_of(version: Path, device: str = "cpu") -> Engine:
    """Return the service's engine of a version, on one thread; `device` is cpu or cuda."""
    model = load_model(version, read_manifest(version), device=device, intra_op_threads=1, optimisation="all")
    return Engine(model, Settings(), ModelMetrics(Metrics(), version.parent.name, version.name))


def gather_models(directory: Path) -> Path:
    """Make `directory` a models directory: links to the committed models, and both references; return it."""
    for model in COMMITTED.iterdir():
        (directory / model.name).symlink_to(model)
    return write_references(directory)


def write_references(directory: Path) -> Path:
    """Write both references into a models directory, and return it."""
    _write_stepper(directory / STEP_MODEL / "1")
    write_reader(directory / TEXT_MODEL / "1")
    return directory


def text_of(ids: Sequence[int]) -> str:
    """Return the text that the BiLSTM's tokenizer reads as `ids`, which are from 1 to `WORDS` - 1."""
    return " ".join(f"w{number}" for number in ids)


def _write_stepper(directory: Path) -> None:
    directory.mkdir(parents=True)
    sequence: Declared = {"name": "x", "dtype": "float32", "shape": ["batch", "time", FEATURES]}
    output: Declared = {"name": "y", "dtype": "float32", "shape": ["batch", "time", OUTPUTS]}
    states: list[Declared] = [
        {"input": name, "output": f"{name}_out", "dtype": "float32", "shape": [1, "batch", HIDDEN]}
        for layer in range(LAYERS)
        for name in (f"h{layer}", f"c{layer}")
    ]
    inputs = [_float("x", sequence["shape"]), LENGTHS, *(_float(state["input"], state["shape"]) for state in states)]
    outputs = [_float("y", output["shape"]), *(_float(state["output"], state["shape"]) for state in states)]
    declared = {
        "task": "step",
        "description": "An LSTM of 2 layers of 256 with random weights: what a step costs.",
        "inputs": [sequence],
        "outputs": [output],
        "states": states,
        "streamable": True,
    }
    _write(directory, *_stepper_nodes(), inputs, outputs, declared)


def write_reader(directory: Path, quantize: Callable[[bytes], bytes] | None = None) -> None:
    """Write the BiLSTM 2x128 over 8,000 words as a `sentiment` model; `quantize` makes its graph another's twin."""
    directory.mkdir(parents=True)
    words = Tokenizer(WordLevel({UNKNOWN: 0, **{f"w{number}": number for number in range(1, WORDS)}}, UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(directory / "tokenizer.json"))
    declared = {
        "task": "sentiment",
        "description": "A BiLSTM of 2 layers of 128 with random weights: what a text costs.",
        "inputs": [IDS],
        "outputs": [{**SCORES, "labels": ["negative", "positive"]}],
        "text": {
            "tokenizer": "tokenizer.json",
            "sha256": _sha256(directory / "tokenizer.json"),
            "max_length": 256,
            "unknown_token": UNKNOWN,
            "polarity": [-1.0, 1.0],
        },
        "arithmetic": "int8" if quantize else "float32",
    }
    _write_reading(directory, declared, quantize)


def write_plain_reader(directory: Path) -> None:
    """Write the same graph as a model without a task: ids in, scores out."""
    directory.mkdir(parents=True)
    about = "A BiLSTM of 2 layers of 128 with random weights: what a row of ids costs."
    _write_reading(directory, {"task": "tensor", "description": about, "inputs": [IDS], "outputs": [SCORES]})


def _write_reading(directory: Path, declared: Declared, quantize: Callable[[bytes], bytes] | None = None) -> None:
    ids = helper.make_tensor_value_info(IDS["name"], TensorProto.INT32, IDS["shape"])
    outputs = [_float(SCORES["name"], SCORES["shape"])]
    _write(directory, *_reader_nodes(), [ids, LENGTHS], outputs, declared, quantize)


def _write(
    directory: Path,
    nodes: list[NodeProto],
    weights: list[TensorProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    declared: Declared,
    quantize: Callable[[bytes], bytes] | None = None,
) -> None:
    """Write graph and manifest of the model that `directory`, <name>/<version>, names."""
    file = directory / GRAPH_FILE
    graph = helper.make_graph(nodes, directory.parent.name, inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10).SerializeToString()
    file.write_bytes(quantize(made) if quantize else made)
    facts = {"name": directory.parent.name, "version": directory.name, "file": file.name, "sha256": _sha256(file)}
    manifest = {"schema_version": 1, **facts, "lengths": LENGTHS.name, **declared}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class _Weights:
    """Random weights from a fixed seed, each kept under its name."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.made: list[TensorProto] = []

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        self.made.append(numpy_helper.from_array(value, name))
        return name

    def drawn(self, name: str, bound: float, *shape: int) -> str:
        return self.constant(name, self._rng.uniform(-bound, bound, size=shape).astype(np.float32))

    def of_lstm(self, layer: int, size: int, hidden: int, directions: int) -> list[str]:
        gates, bound = 4 * hidden, hidden**-0.5
        return [
            self.drawn(f"w{layer}", bound, directions, gates, size),
            self.drawn(f"r{layer}", bound, directions, gates, hidden),
            self.drawn(f"b{layer}", bound, directions, 2 * gates),
        ]


def _stepper_nodes() -> tuple[list[NodeProto], list[TensorProto]]:
    weights = _Weights()
    axis = weights.constant("direction_axis", np.array([1], np.int64))
    nodes = [helper.make_node("Transpose", ["x"], ["below0"], perm=[1, 0, 2])]
    for layer, size in enumerate((FEATURES, HIDDEN)):
        states = [LENGTHS.name, f"h{layer}", f"c{layer}"]
        inputs = [f"below{layer}", *weights.of_lstm(layer, size, HIDDEN, 1), *states]
        made = [f"all{layer}", f"h{layer}_out", f"c{layer}_out"]
        nodes.append(helper.make_node("LSTM", inputs, made, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"all{layer}", axis], [f"below{layer + 1}"]))
    bound = HIDDEN**-0.5
    nodes += [
        helper.make_node("Transpose", [f"below{LAYERS}"], ["by_row"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["by_row", weights.drawn("dense", bound, HIDDEN, OUTPUTS)], ["product"]),
        helper.make_node("Add", ["product", weights.drawn("bias", bound, OUTPUTS)], ["y"]),
    ]
    return nodes, weights.made


def _reader_nodes() -> tuple[list[NodeProto], list[TensorProto]]:
    weights = _Weights()
    joined = weights.constant("joined", np.array([0, 0, 2 * READER_HIDDEN], np.int64))
    nodes = [
        helper.make_node("Transpose", ["ids"], ["by_time"], perm=[1, 0]),
        helper.make_node("Gather", [weights.drawn("embedding", 1.0, WORDS, EMBEDDING), "by_time"], ["below0"]),
    ]
    for layer, size in enumerate((EMBEDDING, 2 * READER_HIDDEN)):
        inputs = [f"below{layer}", *weights.of_lstm(layer, size, READER_HIDDEN, 2), LENGTHS.name]
        made = [f"all{layer}", f"end{layer}"]
        nodes += [
            helper.make_node("LSTM", inputs, made, hidden_size=READER_HIDDEN, direction="bidirectional"),
            helper.make_node("Transpose", [f"all{layer}"], [f"by_step{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"by_step{layer}", joined], [f"below{layer + 1}"]),
        ]
    del nodes[-2:]  # nobody reads what the last layer gives at each step
    nodes += [
        helper.make_node("Transpose", [f"end{LAYERS - 1}"], ["by_row"], perm=[1, 0, 2]),
        helper.make_node("Flatten", ["by_row"], ["read"]),
        helper.make_node("MatMul", ["read", weights.drawn("dense", 4.0, 2 * READER_HIDDEN, 2)], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    return nodes, weights.made


def _float(name: str, shape: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
