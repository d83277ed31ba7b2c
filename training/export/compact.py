"""A smaller file for the same graph: weights that float16 holds exactly are held so, and cast as the graph is loaded.

It knows ONNX graphs, not networks. Invariant: what the graph computes stays the same, bit by bit.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.errors import StartupError

SMALLEST = 256  # values; a shorter vector is not worth a node


class InexactError(StartupError):
    """A weight is no float16; the message names it."""


def hold_in_float16(graph: onnx.ModelProto) -> None:
    """Hold the weights in float16, each with a cast to float32 behind it.

    ONNX Runtime computes casts of weights once, when it loads the graph; `export.quantize.to_float16` is another
    matter: its graphs compute in float16.

    Raises: InexactError for a weight that was not rounded to float16 before.
    """
    casts = []
    for weight in graph.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < SMALLEST:
            continue
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if not np.array_equal(rounded, values):
            raise InexactError(f"{weight.name} holds weights that are no float16: round them before export")
        name = f"{weight.name}_float16"
        casts.append(helper.make_node("Cast", [name], [weight.name], name=f"{name}_cast", to=TensorProto.FLOAT))
        weight.CopyFrom(numpy_helper.from_array(rounded, name))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
