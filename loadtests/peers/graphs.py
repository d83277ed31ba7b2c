"""The graphs that every server here serves: a BiLSTM over ids, and the LSTM 2x256 of steps.

It knows ONNX and Baton's manifest. Weights are random from a fixed seed: what a run costs does not depend on them.
Invariant: the word of an id is one token for Baton, so a text of n words is the n ids that a peer gets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from loadtests.models import STEP_MODEL, gather_models, newest

TEXT_MODEL = "bilstm-2x128"
LAYERS, HIDDEN, EMBEDDING, VOCABULARY = 2, 128, 128, 8000
GATES, DIRECTIONS = 4 * HIDDEN, 2
LABELS = ("negative", "positive")
UNKNOWN, FIRST_WORD = "[UNK]", 1


def write_models(folder: Path) -> Path:
    """Make a models directory of the two models in `folder`, and return it."""
    models, gathered = folder / "models", folder / "gathered"
    models.mkdir()
    gathered.mkdir()
    (models / STEP_MODEL).symlink_to(gather_models(gathered) / STEP_MODEL)
    _write_texts(models / TEXT_MODEL / "1")
    return models


def graph(models: Path, model: str) -> Path:
    return newest(model, models) / "model.onnx"


def text(ids: Sequence[int]) -> str:
    """Return the text that Baton's tokenizer reads as `ids`."""
    return " ".join(_word(each) for each in ids)


def _word(number: int) -> str:
    return f"w{number}"


def _write_texts(directory: Path) -> None:
    directory.mkdir(parents=True)
    file, tokenizer_file = directory / "model.onnx", directory / "tokenizer.json"
    save(_bilstm(), file)
    words = {UNKNOWN: 0, **{_word(number): number for number in range(FIRST_WORD, VOCABULARY)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(tokenizer_file))
    manifest = {
        "schema_version": 1,
        "name": TEXT_MODEL,
        "version": directory.name,
        "task": "sentiment",
        "description": "A BiLSTM of 2 layers of 128 with random weights: what a text costs.",
        "file": file.name,
        "sha256": _sha256(file),
        "inputs": [{"name": "ids", "dtype": "int32", "shape": ["batch", "time"]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", len(LABELS)], "labels": LABELS}],
        "lengths": "lengths",
        "streamable": False,
        "text": {
            "tokenizer": tokenizer_file.name,
            "sha256": _sha256(tokenizer_file),
            "max_length": 256,
            "unknown_token": UNKNOWN,
        },
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _bilstm() -> Any:
    """Return the graph: ids [batch, time], lengths [batch] -> scores [batch, labels], from the last states."""
    rng = np.random.default_rng(0)
    weights: list[TensorProto] = []

    def constant(name: str, value: np.ndarray[Any, Any]) -> str:
        weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(name: str, *shape: int) -> str:
        return constant(name, rng.normal(size=shape, scale=HIDDEN**-0.5).astype(np.float32))

    joined = constant("joined", np.array([0, 0, DIRECTIONS * HIDDEN], np.int64))
    nodes: list[NodeProto] = [
        helper.make_node("Transpose", ["ids"], ["by_time"], perm=[1, 0]),
        helper.make_node("Gather", [weight("embedding", VOCABULARY, EMBEDDING), "by_time"], ["below0"]),
    ]
    for layer, size in enumerate((EMBEDDING, DIRECTIONS * HIDDEN)):
        inputs = [
            f"below{layer}",
            weight(f"w{layer}", DIRECTIONS, GATES, size),
            weight(f"r{layer}", DIRECTIONS, GATES, HIDDEN),
            weight(f"b{layer}", DIRECTIONS, 2 * GATES),
            "lengths",
        ]
        nodes += [
            helper.make_node(
                "LSTM", inputs, [f"all{layer}", f"last{layer}"], hidden_size=HIDDEN, direction="bidirectional"
            ),
            helper.make_node("Transpose", [f"all{layer}"], [f"by_row{layer}"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"by_row{layer}", joined], [f"below{layer + 1}"]),
        ]
    nodes = nodes[:-2]  # nobody reads what the last layer gives at each step
    nodes += [
        helper.make_node("Transpose", [f"last{LAYERS - 1}"], ["last_by_row"], perm=[1, 0, 2]),
        helper.make_node("Flatten", ["last_by_row"], ["last"]),
        helper.make_node("MatMul", ["last", weight("dense", DIRECTIONS * HIDDEN, len(LABELS))], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    fed = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "time"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
    ]
    given = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(LABELS)])]
    made = helper.make_graph(nodes, TEXT_MODEL, fed, given, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
