"""Tiny step models with a graph that ends the process which loads or runs it, or would.

Each is a sound stepper whose answer also takes a number from a node that ONNX Runtime's CPU kernels, or its optimiser,
do not survive.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from onnx import TensorProto, helper

LEAST = np.iinfo(np.int32).min
ENDLESS = 1 << 62
PARTS, PART_NUMBERS = 64, 1 << 26  # 64 tensors of 256 MiB; each alone is small enough to be granted


def crashing(root: Path, **changes: Any) -> Path:
    """Divides the least int32 by -1 when its constants are folded, which x86-64 answers with SIGFPE."""

    def quotient(build: tiny.GraphBuilder) -> str:
        least, minus = (build.constant(np.array([value], np.int32)) for value in (LEAST, -1))
        return build.add("Cast", build.add("Div", [least, minus]), to=TensorProto.FLOAT)[0]

    return _stepper(root, quotient, **changes)


def crashing_late(root: Path, **changes: Any) -> Path:
    """The same division, by what is known only when the graph runs."""

    def quotient(build: tiny.GraphBuilder) -> str:
        least, nothing, minus = (build.constant(np.array([value], np.int32)) for value in (LEAST, 0, -1))
        (whole,) = build.add("Cast", ["x"], to=TensorProto.INT32)
        (divisor,) = build.add("Add", [build.add("Mul", [whole, nothing])[0], minus])
        (quotients,) = build.add("Cast", build.add("Div", [least, divisor]), to=TensorProto.FLOAT)
        return build.add("ReduceMax", [quotients], keepdims=0)[0]

    return _stepper(root, quotient, **changes)


def endless(root: Path, **changes: Any) -> Path:
    """Goes through a loop 2^62 times."""
    return _looping(root, lambda build: build.constant(np.array(ENDLESS, np.int64)), **changes)


def endless_beyond(root: Path, bound: float, **changes: Any) -> Path:
    """The same where a value is beyond a bound, which no probe shows; else not once."""

    def times(build: tiny.GraphBuilder) -> str:
        (largest,) = build.add("ReduceMax", ["x"], keepdims=0)
        (beyond,) = build.add("Greater", [largest, build.constant(np.array(bound, np.float32))])
        (once,) = build.add("Cast", [beyond], to=TensorProto.INT64)
        return build.add("Mul", [once, build.constant(np.array(ENDLESS, np.int64))])[0]

    return _looping(root, times, **changes)


def _looping(root: Path, count: Callable[[tiny.GraphBuilder], str], **changes: Any) -> Path:
    def counted(build: tiny.GraphBuilder) -> str:
        def value(name: str, dtype: int) -> Any:
            return helper.make_tensor_value_info(name, dtype, [])

        given = [value("turn", TensorProto.INT64), value("go_on", TensorProto.BOOL), value("count", TensorProto.FLOAT)]
        nodes = [helper.make_node("Identity", ["go_on"], ["on"]), helper.make_node("Neg", ["count"], ["counted"])]
        made = [value("on", TensorProto.BOOL), value("counted", TensorProto.FLOAT)]
        times, on = count(build), build.constant(np.array(True))
        (largest,) = build.add("ReduceMax", ["x"], keepdims=0)
        (first,) = build.add("Mul", [largest, build.constant(np.array(0, np.float32))])  # not known before the run
        return build.add("Loop", [times, on, first], body=helper.make_graph(nodes, "body", given, made))[0]

    return _stepper(root, counted, **changes)


def exploding(root: Path, **changes: Any) -> Path:
    """Makes 16 GiB of tensors from a file of a few kilobytes."""

    def largest(build: tiny.GraphBuilder) -> str:
        size = build.constant(np.array([PART_NUMBERS], np.int64))
        parts = []
        for number in range(PARTS):
            value = helper.make_tensor("value", TensorProto.FLOAT, [1], [float(number)])
            parts += build.add("ConstantOfShape", [size], value=value)
        return build.add("ReduceMax", build.add("Max", parts), keepdims=0)[0]

    return _stepper(root, largest, **changes)


def exploding_beyond(root: Path, bound: float, **changes: Any) -> Path:
    """Makes a tensor of 16 GiB where a value is beyond a bound, which no probe shows; else of nothing."""

    def largest(build: tiny.GraphBuilder) -> str:
        (found,) = build.add("ReduceMax", ["x"], keepdims=0)
        (beyond,) = build.add("Greater", [found, build.constant(np.array(bound, np.float32))])
        (once,) = build.add("Cast", [beyond], to=TensorProto.INT64)
        (extra,) = build.add("Mul", [once, build.constant(np.array(2**32, np.int64))])
        (count,) = build.add("Add", [extra, build.constant(np.array(1, np.int64))])
        (shape,) = build.add("Reshape", [count, build.constant(np.array([1], np.int64))])
        (zero,) = build.add("Mul", [found, build.constant(np.array(0, np.float32))])
        return build.add("ReduceMax", [build.add("Expand", [zero, shape])[0]], keepdims=0)[0]

    return _stepper(root, largest, **changes)


def half(root: Path, **changes: Any) -> Path:
    """A linear head in float16 over time-first values, at which ONNX Runtime 1.31 dies as it optimises all it can."""

    def headed(build: tiny.GraphBuilder) -> str:
        weights, bias = (build.constant(build.rng.normal(size=size).astype(np.float16)) for size in ((2, 3), (3,)))
        (narrow,) = build.add("Cast", ["x"], to=TensorProto.FLOAT16)
        (by_time,) = build.add("Transpose", [narrow], perm=[1, 0, 2])
        (made,) = build.add("Add", [build.add("MatMul", [by_time, weights])[0], bias])
        (wide,) = build.add("Cast", [made], to=TensorProto.FLOAT)
        return build.add("Transpose", [wide], perm=[1, 0, 2])[0]

    return _stepper(root, headed, **{"arithmetic": "float16", **changes})


def _stepper(root: Path, add: Callable[[tiny.GraphBuilder], str], **changes: Any) -> Path:
    build = tiny.GraphBuilder(6)
    y, h = build.recurrent("GRU", "x", 2, 3, ["h"], linear_before_reset=1)
    (sum_,) = build.add("Add", [y, add(build)])
    manifest = {
        "name": "stepper",
        "version": "2",
        "task": "step",
        "streamable": True,
        "inputs": [tiny.tensor("x", "float32", "batch", "time", 2)],
        "outputs": [tiny.tensor("y", "float32", "batch", "time", 3)],
        "states": [tiny.state("h", 1, "batch", 3)],
    }
    return tiny.write_model(root, build, {"y": sum_, "h_out": h}, **{**manifest, **changes})
