"""Tiny models without a task of their own: tensors of any dtype in and out, several inputs, with and without time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import TYPES, GraphBuilder, sentiment, tensor, write_model


def plain(root: Path, build: GraphBuilder, made: dict[str, str], **manifest: Any) -> Path:
    return write_model(root, build, made, **{"task": "tensor", "lengths": None, **manifest})


def echo(root: Path, dtype: str, **changes: Any) -> Path:
    """Each row twice, one behind the other."""
    build = GraphBuilder()
    manifest = {
        "name": f"echo-{dtype}",
        "inputs": [tensor("x", dtype, "batch", 2)],
        "outputs": [tensor("y", dtype, "batch", 4)],
    }
    return plain(root, build, {"y": build.add("Concat", ["x", "x"], axis=1)[0]}, **{**manifest, **changes})


def classifier(root: Path, **changes: Any) -> Path:
    """Ids in, probabilities out, and no tokenizer."""
    return sentiment(root, **{"name": "classifier", "task": "tensor", "text": None, **changes})


def visits(root: Path, **changes: Any) -> Path:
    """A GRU over three readings a step, its rows shifted by two numbers that a row has once and by the embedding of an
    id; an output for each step, one for each row, and one number for each row."""
    lengths = changes.get("lengths", "lengths")
    build = GraphBuilder(21, lengths=lengths or "")
    y, h = build.recurrent("GRU", "readings", 3, 4, [], linear_before_reset=1)
    (last,) = build.add("Squeeze", [h, build.constant(np.array([0], np.int64))])
    (ward,) = build.add("Gather", [build.weight(2, 4), "ward"])
    (row,) = build.add("Sum", [last, build.dense("profile", 2, 4), ward])
    (by_step,) = build.add("Unsqueeze", [row, build.constant(np.array([1], np.int64))])
    (shifted,) = build.add("Add", [y, by_step])
    (total,) = build.add("ReduceSum", [row, build.constant(np.array([1], np.int64))], keepdims=0)
    manifest = {
        "name": "visits",
        "lengths": lengths,
        "inputs": [
            tensor("profile", "float32", "batch", 2),
            tensor("readings", "float32", "batch", "time", 3),
            tensor("ward", "int64", "batch"),
        ],
        "outputs": [
            tensor("by_step", "float32", "batch", "time", 4),
            tensor("scores", "float32", "batch", 4, labels=["a", "b", "c", "d"]),
            tensor("total", "float32", "batch"),
        ],
    }
    return plain(root, build, {"by_step": shifted, "scores": row, "total": total}, **{**manifest, **changes})


def columns(root: Path, **changes: Any) -> Path:
    """Time first, a mask beside it whose batch comes last: the readings where it holds, else 0."""
    build = GraphBuilder()
    (kept,) = build.add("Unsqueeze", ["mask", build.constant(np.array([1], np.int64))])
    (swapped,) = build.add("Transpose", [kept], perm=[0, 2, 1])
    made = build.add("Where", [swapped, "x", build.constant(np.array(0, np.float32))])[0]
    manifest = {
        "name": "columns",
        "inputs": [tensor("x", "float32", "time", "batch", 1), tensor("mask", "bool", "time", "batch")],
        "outputs": [tensor("y", "float32", "time", "batch", 1)],
    }
    return plain(root, build, {"y": made}, **{**manifest, **changes})


def words(root: Path, **changes: Any) -> Path:
    """A step's word and mark joined with a row's suffix; and how many of a row's words are not empty."""
    build = GraphBuilder()
    (by_step,) = build.add("Unsqueeze", ["suffix", build.constant(np.array([1], np.int64))])
    (marked,) = build.add("StringConcat", ["words", "marks"])
    (empty,) = build.add("Equal", ["words", build.constant(np.array("", object))])
    (full,) = build.add("Cast", [build.add("Not", [empty])[0]], to=TYPES["int64"])
    (count,) = build.add("ReduceSum", [full, build.constant(np.array([1], np.int64))], keepdims=0)
    manifest = {
        "name": "words",
        "lengths": "lengths",
        "inputs": [
            tensor("words", "string", "batch", "time"),
            tensor("marks", "string", "batch", "time"),
            tensor("suffix", "string", "batch"),
        ],
        "outputs": [tensor("joined", "string", "batch", "time"), tensor("count", "int64", "batch")],
    }
    made = {"joined": build.add("StringConcat", [marked, by_step])[0], "count": count}
    return plain(root, build, made, **{**manifest, **changes})


def mixing(root: Path, dtype: str = "float32", **changes: Any) -> Path:
    """Every row gets the first row of its batch."""
    build = GraphBuilder()
    first = build.add("Gather", ["x", build.constant(np.array([0], np.int64))])[0]
    made = build.add("Expand", [first, build.add("Shape", ["x"])[0]])[0]
    manifest = {
        "name": "mixing",
        "inputs": [tensor("x", dtype, "batch", 2)],
        "outputs": [tensor("y", dtype, "batch", 2)],
    }
    return plain(root, build, {"y": made}, **{**manifest, **changes})
