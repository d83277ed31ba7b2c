"""Tiny models of handwriting: points of a pen, drawn from mixtures, from a text or from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny import GraphBuilder, state, tensor, write_model
from tiny_conditions import HIDDEN, MEMORY, add_start, attend, reader

COMPONENTS = 3
PARAMETERS = 6 * COMPONENTS + 1
START = [0.0, 0.0, 1.0]
MIXTURE = {"kind": "mixture", "output": "mixture", "components": COMPONENTS, "start": START, "finished": None}


def scribbler(root: Path, *, tears: bool = False, **changes: Any) -> Path:
    """A GRU over points, which begins from nothing and never says that it is at its end. Where it `tears`, no point can
    be drawn after the end of a stroke, so wide are its deviations."""
    build = GraphBuilder(21, lengths=changes.get("lengths", "lengths") or "")
    y, h = build.recurrent("GRU", "points", 3, HIDDEN, ["h"], linear_before_reset=1)
    manifest = {
        "name": "scribbler",
        "task": "step",
        "streamable": True,
        "inputs": [tensor("points", "float32", "batch", "time", 3)],
        "outputs": [tensor("mixture", "float32", "batch", "time", PARAMETERS)],
        "states": [state("h", 1, "batch", HIDDEN)],
        "feedback": MIXTURE,
    }
    mixture = build.dense(y, HIDDEN, PARAMETERS)
    if tears:
        wide = np.zeros((3, PARAMETERS), np.float32)
        wide[2, 1 + 3 * COMPONENTS : 1 + 5 * COMPONENTS] = 200  # logarithms
        (torn,) = build.add("MatMul", ["points", build.constant(wide)])
        (mixture,) = build.add("Add", [mixture, torn])
    made = {"mixture": mixture, "h_out": h}
    return write_model(root, build, made, **{**manifest, **changes})


def penman(root: Path, *, sure: bool = True, **changes: Any) -> Path:
    """A cell that attends to the letters of a text, a point a run, and says when it is at its end; unless it is `sure`
    in a number that is no probability."""
    build = GraphBuilder(22, lengths="")
    axis = build.constant(np.array([1], np.int64))
    (before,) = build.add("Add", [build.dense("point", 3, HIDDEN), build.dense("h", HIDDEN, HIDDEN)])
    (query,) = build.add("Unsqueeze", [before, axis])
    _, seen = attend(build, query, "memory", masked=True)
    (flat,) = build.add("Squeeze", [seen, axis])
    (h,) = build.add("Tanh", [build.add("Add", [flat, before])[0]])
    (end,) = build.add("Sub", [build.dense(h, HIDDEN, 1), build.constant(np.array(1.25, np.float32))])
    manifest = {
        "name": "penman",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("point", "float32", "batch", 3)],
        "outputs": [tensor("mixture", "float32", "batch", PARAMETERS), tensor("end", "float32", "batch", 1)],
        "states": [state("h", "batch", HIDDEN), MEMORY],
        "memory_lengths": "memory_lengths",
        "feedback": {**MIXTURE, "finished": "end"},
    }
    made = {"mixture": build.dense(h, HIDDEN, PARAMETERS), "h_out": h}
    made["end"] = build.add("Sigmoid", [end])[0] if sure else end
    directory = write_model(root, build, made, **{**manifest, **changes})
    encoder, begun = reader()
    outputs = [tensor("memory_0", "float32", "batch", "time", HIDDEN)]
    source = [tensor("source", "int32", "batch", "time")]
    made = {"memory_0": begun["memory_0"]}
    return add_start(directory, encoder, made, source, outputs, {"memory": "memory_0"}, text=True)


def tearer(root: Path) -> Path:
    """The scribbler, that can write a single stroke."""
    return scribbler(root, tears=True, name="tearer", feedback={**MIXTURE, "start": [0, 0, 0]})


def all_pens(root: Path) -> Path:
    for write in (scribbler, tearer, penman):
        write(root)
    return root
