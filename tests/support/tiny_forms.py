"""Tiny step models of every form that a graph may have: axes in any order or missing, integers, stored starts.

Three at the end are broken, each in its own way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from tiny import GraphBuilder, state, tensor, write_model


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


def bare_cell(root: Path, **changes: Any) -> Path:
    """A cell whose next state is its answer, and which has no other output."""
    build = GraphBuilder(12, lengths="")
    (mixed,) = build.add("Add", [build.dense("x", 2, 4), build.add("MatMul", ["h", build.weight(4, 4)])[0]])
    (made,) = build.add("Tanh", [mixed])
    manifest = {
        "name": "bare-cell",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [tensor("h_out", "float32", "batch", 4)],
        "states": [state("h", "batch", 4)],
    }
    return write_model(root, build, {"h_out": made}, **{**manifest, **changes})


def thirteenth(root: Path) -> Path:
    """Twelve states, and a thirteenth input of their shape that never comes out."""
    build = GraphBuilder(13, lengths="")
    names = [f"s{number}" for number in range(13)]
    (total,) = build.add("Sum", [build.dense("x", 2, 4), *names])
    made = {"y": build.dense(total, 4, 3), **{f"{name}_out": build.add("Add", [name, total])[0] for name in names[:12]}}
    inputs = [tensor("x", "float32", "batch", 2), *(tensor(name, "float32", "batch", 4) for name in names)]
    outputs = [tensor(name, "float32", "batch", 3 if name == "y" else 4) for name in made]
    build.save(root / "model.onnx", inputs, outputs, made)
    return root


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


def slope(root: Path, **changes: Any) -> Path:
    """Values in float64, so large that float32 would lose what they move by; how they move is float32."""
    build = GraphBuilder(14)
    (moved,) = build.add("Cast", build.add("Sub", ["x", "last"]), to=TensorProto.FLOAT)
    (sum_of_both,) = build.add("Add", [moved, "drift"])
    (drift,) = build.add("Mul", [sum_of_both, build.constant(np.array(0.5, np.float32))])
    (ahead,) = build.add("Cast", [drift], to=TensorProto.DOUBLE)
    manifest = {
        "name": "slope",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float64", "batch")],
        "outputs": [tensor("moved", "float32", "batch"), tensor("next", "float64", "batch")],
        "states": [state("last", "batch", dtype="float64", start=1.7e9), state("drift", "batch")],
    }
    (last,) = build.add("Identity", ["x"])
    made = {"moved": moved, "next": build.add("Add", ["x", ahead])[0], "last_out": last, "drift_out": drift}
    return write_model(root, build, made, **{**manifest, **changes})


def unbatched(root: Path, **changes: Any) -> Path:
    """One frame a run, and no batch axis anywhere: an Elman network, and a scalar that counts its steps."""
    build = GraphBuilder(14)
    parts = [build.add("MatMul", [name, build.weight(size, 4)])[0] for name, size in (("x", 2), ("h", 4))]
    (h,) = build.add("Tanh", build.add("Add", parts))
    (y,) = build.add("MatMul", [h, build.weight(4, 3)])
    (count,) = build.add("Add", ["count", build.constant(np.array(1, np.int64))])
    manifest = {
        "name": "unbatched",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", 2)],
        "outputs": [tensor("y", "float32", "batch", 3)],
        "states": [state("h", "batch", 4), state("count", "batch", dtype="int64")],
        "graph_shapes": {"x": [2], "y": [3], "h": [4], "h_out": [4], "count": [], "count_out": []},
    }
    return write_model(root, build, {"y": y, "h_out": h, "count_out": count}, **{**manifest, **changes})


def unbatched_sequence(root: Path, **changes: Any) -> Path:
    """A GRU over the frames of one recording: its input and answer have no batch axis, its state one of size 1."""
    build = GraphBuilder(15, lengths="")
    one = build.constant(np.array([1], np.int64))
    weights = [build.weight(1, 12, 2), build.weight(1, 12, 4), build.weight(1, 24)]
    y, h = build.add("GRU", [build.add("Unsqueeze", ["x", one])[0], *weights, "", "h"], 2, hidden_size=4)
    (rows,) = build.add("Squeeze", [y, build.constant(np.array([1, 2], np.int64))])
    manifest = {
        "name": "unbatched-sequence",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", "time", 2)],
        "outputs": [tensor("y", "float32", "batch", "time", 4)],
        "states": [state("h", 1, "batch", 4)],
        "graph_shapes": {"x": ["frames", 2], "y": ["frames", 4], "h": [1, 1, 4], "h_out": [1, 1, 4]},
    }
    return write_model(root, build, {"y": rows, "h_out": h}, **{**manifest, **changes})


def spectrum(root: Path, **changes: Any) -> Path:
    """One row a run, and features on two axes: three bands of a complex number each, as speech filters take them."""
    build = GraphBuilder(18)
    sizes = [build.constant(np.array(shape, np.int64)) for shape in ([1, 6], [1, 3, 1, 2])]
    (flat,) = build.add("Reshape", ["x", sizes[0]])
    (h,) = build.add("Tanh", [build.add("Add", [build.dense(flat, 6, 4), build.dense("h", 4, 4)])[0]])
    (y,) = build.add("Mul", ["x", build.add("Reshape", [build.dense(h, 4, 6), sizes[1]])[0]])
    axes = ["batch", 3, 1, 2]
    manifest = {
        "name": "spectrum",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", *axes)],
        "outputs": [tensor("y", "float32", *axes)],
        "states": [state("h", "batch", 4)],
        "graph_shapes": {"x": [1, 3, 1, 2], "y": [1, 3, 1, 2], "h": [1, 4], "h_out": [1, 4]},
    }
    return write_model(root, build, {"y": y, "h_out": h}, **{**manifest, **changes})


ONE_ROW = {  # the graph shapes of `cell` and of `time_major`, exported for one row
    "cell": {"x": [1, 2], "y": [1, 3], "h": [1, 1, 4], "h_out": [1, 1, 4]},
    "time_major": {
        "x": ["time", 1, 2],
        "y": ["time", 1, 1, 4],
        "lengths": [1],
        **{name: [1, 1, 4] for name in ("h", "c", "h_out", "c_out")},
    },
}


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


def hearsay(root: Path, **changes: Any) -> Path:
    """A broken recurrence: rows are mixed in the states that they carry in, which are all alike in new sessions."""
    build = GraphBuilder(19, lengths="")
    (mean,) = build.add("ReduceMean", ["h", build.constant(np.array([1], np.int64))], keepdims=1)
    (spread,) = build.add("Expand", [mean, build.add("Shape", ["h"])[0]])
    y, h = build.recurrent("GRU", "x", 2, 4, [spread])
    manifest = {
        "name": "hearsay",
        "task": "step",
        "streamable": True,
        "lengths": None,
        "inputs": [tensor("x", "float32", "batch", "time", 2)],
        "outputs": [tensor("y", "float32", "batch", "time", 4)],
        "states": [state("h", 1, "batch", 4)],
    }
    return write_model(root, build, {"y": y, "h_out": h}, **{**manifest, **changes})
