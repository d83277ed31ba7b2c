"""Tiny models whose sessions begin from a condition: a text to attend to, a vector that stays, rows of numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny import GraphBuilder, sha256, state, tensor, text_settings, write_manifest, write_model
from tiny_writers import LETTERS, START, letters

IDS, HIDDEN = len(LETTERS), 4
END = LETTERS.index(".")
MEMORY = {"input": "memory", "dtype": "float32", "shape": ["batch", "memory", HIDDEN]}
LOGITS = {"kind": "categorical", "output": "logits", "form": "logits", "start": START, "end": END}


def add_start(
    directory: Path,
    build: GraphBuilder,
    made: dict[str, str],
    inputs: list[dict],
    outputs: list[dict],
    states: dict[str, str],
    *,
    text: bool = False,
) -> Path:
    """Give the model in `directory` a start graph; its lengths, where it takes any, are called as the builder's."""
    lengths = [tensor(build.lengths, "int32", "batch")] if build.lengths else []
    build.save(directory / "start.onnx", [*inputs, *lengths], outputs, made)
    start: dict[str, Any] = {"file": "start.onnx", "sha256": sha256(directory / "start.onnx")}
    start |= {"inputs": inputs, "outputs": outputs, "states": states, "lengths": build.lengths or None}
    if text:
        letters().save(str(directory / "source.json"))
        hashed = sha256(directory / "source.json")
        start["text"] = text_settings(tokenizer="source.json", polarity=None, sha256=hashed)
    manifest = json.loads((directory / "manifest.json").read_text())
    write_manifest(directory, {**manifest, "start": start})
    return directory


def reader(seed: int = 11) -> tuple[GraphBuilder, dict[str, str]]:
    """A bidirectional GRU over letters: the memory of them, and the state of a GRU to begin with."""
    build = GraphBuilder(seed, lengths="source_lengths")
    (embedded,) = build.add("Gather", [build.weight(IDS + 1, 3), "source"])
    y, h = build.recurrent("GRU", embedded, 3, HIDDEN // 2, [], direction="bidirectional", linear_before_reset=1)
    (by_row,) = build.add("Transpose", [h], perm=[1, 0, 2])
    (begun,) = build.add("Reshape", [by_row, build.constant(np.array([1, -1, HIDDEN], np.int64))])
    return build, {"memory_0": y, "h_0": begun}


def attend(build: GraphBuilder, query: str, memory: str, *, masked: bool) -> tuple[str, str]:
    """Return the weights of attention and what they see. Shapes: [batch, time, memory] and [batch, time, HIDDEN]."""
    (keys,) = build.add("Transpose", [memory], perm=[0, 2, 1])
    (scores,) = build.add("MatMul", [query, keys])
    if masked:
        shape = build.add("Shape", [memory], start=1, end=2)
        zero, one = build.constant(np.array(0, np.int64)), build.constant(np.array(1, np.int64))
        (longest,) = build.add("Squeeze", shape)
        (places,) = build.add("Range", [zero, longest, one])
        (lengths,) = build.add("Cast", ["memory_lengths"], to=7)
        (column,) = build.add("Unsqueeze", [lengths, build.constant(np.array([1], np.int64))])
        (there,) = build.add("Less", [places, column])
        (by_step,) = build.add("Unsqueeze", [there, build.constant(np.array([1], np.int64))])
        (scores,) = build.add("Where", [by_step, scores, build.constant(np.array(-1e9, np.float32))])
    (weights,) = build.add("Softmax", [scores], axis=-1)
    return weights, build.add("MatMul", [weights, memory])[0]


def translator(root: Path, *, seed: int = 12, masked: bool = True, **changes: Any) -> Path:
    """A GRU over letters that attends to the letters of the text that a session begins from."""
    build = GraphBuilder(seed, lengths=changes.get("lengths", "lengths"))
    (embedded,) = build.add("Gather", [build.weight(IDS + 1, 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, HIDDEN, ["h"], linear_before_reset=1)
    weights, seen = attend(build, y, "memory", masked=masked)
    (both,) = build.add("Concat", [y, seen], axis=-1)
    manifest = {
        "name": "translate",
        "task": "translate",
        "streamable": True,
        "inputs": [tensor("ids", "int32", "batch", "time")],
        "outputs": [
            tensor("logits", "float32", "batch", "time", IDS),
            tensor("attention", "float32", "batch", "time", "memory"),
        ],
        "states": [state("h", 1, "batch", HIDDEN), MEMORY],
        "memory_lengths": "memory_lengths" if masked else None,
        "text": text_settings(polarity=None),
        "feedback": LOGITS,
    }
    made = {"logits": build.dense(both, 2 * HIDDEN, IDS), "attention": weights, "h_out": h}
    directory = write_model(root, build, made, tokenizer=letters(), **{**manifest, **changes})
    encoder, begun = reader()
    outputs = [tensor("h_0", "float32", 1, "batch", HIDDEN), tensor("memory_0", "float32", "batch", "time", HIDDEN)]
    source = [tensor("source", "int32", "batch", "time")]
    return add_start(directory, encoder, begun, source, outputs, {"h": "h_0", "memory": "memory_0"}, text=True)


def rows_reader(root: Path) -> Path:
    """The same for numbers, a step a run: a session begins from rows, and hands on what it has attended to."""
    build = GraphBuilder(13, lengths="")
    axis = build.constant(np.array([1], np.int64))
    (query,) = build.add("Unsqueeze", [build.dense("x", 2, HIDDEN), axis])
    (moved,) = build.add("Add", [query, *build.add("Unsqueeze", ["h", axis])])
    weights, seen = attend(build, moved, "memory", masked=True)
    (flat,) = build.add("Squeeze", [seen, axis])
    (h,) = build.add("Tanh", [build.add("Add", [flat, "h"])[0]])
    (row,) = build.add("Squeeze", [weights, axis])
    (used,) = build.add("Unsqueeze", [row, build.constant(np.array([2], np.int64))])
    (left,) = build.add("Sub", ["memory", build.add("Mul", ["memory", used])[0]])
    directory = write_model(
        root,
        build,
        {"y": build.dense(h, HIDDEN, 2), "weights": row, "h_out": h, "memory_out": left},
        lengths="",
        name="rows-reader",
        task="step",
        streamable=True,
        inputs=[tensor("x", "float32", "batch", 2)],
        outputs=[tensor("y", "float32", "batch", 2), tensor("weights", "float32", "batch", "memory")],
        states=[state("h", "batch", HIDDEN), {**MEMORY, "output": "memory_out"}],
        memory_lengths="memory_lengths",
    )
    encoder = GraphBuilder(14, lengths="")
    (memory,) = encoder.add("Tanh", [encoder.dense("rows", 3, HIDDEN)])
    rows = [tensor("rows", "float32", "batch", "time", 3)]
    outputs = [tensor("memory_0", "float32", "batch", "time", HIDDEN)]
    return add_start(directory, encoder, {"memory_0": memory}, rows, outputs, {"memory": "memory_0"})


def captioner(root: Path) -> Path:
    """A GRU over letters beside a vector, which stays what a session began from; nothing is attended to."""
    build = GraphBuilder(15)
    (embedded,) = build.add("Gather", [build.weight(IDS + 1, 3), "ids"])
    y, h = build.recurrent("GRU", embedded, 3, HIDDEN, ["h"], linear_before_reset=1)
    (image,) = build.add("Unsqueeze", ["image", build.constant(np.array([1], np.int64))])
    logits = build.dense(build.add("Add", [y, image])[0], HIDDEN, IDS)
    directory = write_model(
        root,
        build,
        {"logits": logits, "h_out": h},
        tokenizer=letters(),
        name="captioner",
        task="step",
        streamable=True,
        inputs=[tensor("ids", "int32", "batch", "time")],
        outputs=[tensor("logits", "float32", "batch", "time", IDS)],
        states=[state("h", 1, "batch", HIDDEN), {"input": "image", "dtype": "float32", "shape": ["batch", HIDDEN]}],
        text=text_settings(polarity=None),
        feedback=LOGITS,
    )
    encoder = GraphBuilder(16, lengths="")
    outputs = [tensor("image_0", "float32", "batch", HIDDEN)]
    made = {"image_0": encoder.dense("vector", 5, HIDDEN)}
    return add_start(directory, encoder, made, [tensor("vector", "float32", "batch", 5)], outputs, {"image": "image_0"})


def all_conditioned(root: Path) -> Path:
    for write in (translator, rows_reader, captioner):
        write(root)
    return root
