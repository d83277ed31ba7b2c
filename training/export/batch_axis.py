"""Free the batch axis of a graph that was exported for one row.

`python -m training.export.batch_axis FILE OUT INPUT=AXIS ...` names these axes, and leaves them open in reshapes that
were written down for one row. It knows ONNX graphs, not manifests. Invariant: with one row the new graph computes what
the old one does; whether it keeps more rows apart is for `baton inspect --free-batch` to try.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from service.errors import StartupError

ROWS, FREE = 7919, 7907  # sizes by which the batch axis and other free axes are known again in what is inferred: primes


def free_batch(model: onnx.ModelProto, axes: Mapping[str, int]) -> onnx.ModelProto:
    """Return a copy of `model` in which the axes of these inputs, of size 1 now, are free.

    Raises: StartupError for a reshape that has no place for more rows.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    for value in freed.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axes.get(value.name) == axis:
                dim.dim_value = ROWS
            elif not dim.HasField("dim_value"):
                dim.dim_value = FREE
    for value in freed.graph.output:
        value.type.tensor_type.ClearField("shape")  # runs tell it
    del freed.graph.value_info[:]
    for index, node in enumerate(freed.graph.node):
        if node.op_type == "Reshape":
            _open(freed, node, index)
    del freed.graph.input[:]
    freed.graph.input.extend(model.graph.input)
    for value in freed.graph.input:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = "batch"
    return freed


def _open(model: onnx.ModelProto, node: onnx.NodeProto, index: int) -> None:
    """Leave the batch axis of a reshape open, where its sizes are constant and rows reach it.

    Raises: StartupError when it has no place for more rows.
    """
    sizes, given = _constant(model.graph, node.input[1]), _inferred(model, node.input[0])
    if sizes is None or not all(given) or not any(size % ROWS == 0 for size in given):
        return
    opened = _opened(sizes, given)
    if opened is None:
        raise StartupError(f"the reshape {node.name or node.output[0]} to {sizes} has no place for more rows")
    name = f"{node.input[1]}_open_{index}"
    model.graph.initializer.append(numpy_helper.from_array(np.array(opened, np.int64), name))
    node.input[1] = name


def _opened(sizes: Sequence[int], given: Sequence[int]) -> list[int] | None:
    """Return the sizes of a reshape of `given` with the batch axis left open; None where it has no place.

    An axis keeps its place in row-major order if the sizes before it multiply to the same number before and after.
    """
    place = next(axis for axis, size in enumerate(given) if size % ROWS == 0)
    of_one_row = [size // ROWS if axis == place else size for axis, size in enumerate(given)]
    made = [of_one_row[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    rest = sizes.index(-1) if -1 in sizes else None
    if rest is not None:
        made[rest] = prod(of_one_row) // -prod(made)
    fit = [axis for axis in range(len(made)) if prod(made[:axis]) == prod(given[:place])]
    able = [axis for axis in fit if made[axis] == 1]
    if not able:
        return [*sizes] if rest in fit else None  # joined with the axis that is left open already
    axis = place if place in able else able[0]
    opened = [*sizes]
    if rest is None or made[rest] % FREE:
        if rest is not None:
            opened[rest] = made[rest]
        opened[axis] = -1
    elif axis == place and given[place] == ROWS:
        opened[axis] = 0
    else:
        return None
    return opened


def _inferred(model: onnx.ModelProto, name: str) -> list[int]:
    """Return the sizes of a tensor, 0 where they cannot be inferred; nothing where it has no shape."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    found = [value for value in (*graph.input, *graph.value_info) if value.name == name]
    return [dim.dim_value for value in found for dim in value.type.tensor_type.shape.dim]


def _constant(graph: onnx.GraphProto, name: str) -> list[int] | None:
    """Return the numbers of a tensor that the graph holds, None for one that it computes."""
    held = [tensor for tensor in graph.initializer if tensor.name == name]
    held += [node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.output[0] == name]
    return [int(size) for size in numpy_helper.to_array(held[0])] if held else None


def main(arguments: Sequence[str]) -> None:
    """Run the command; a StartupError becomes one line on stderr and exit status 1."""
    file, out, *named = arguments
    axes = {name: int(axis) for name, _, axis in (text.rpartition("=") for text in named)}
    try:
        freed = free_batch(onnx.load(Path(file)), axes)
    except StartupError as error:
        sys.exit(str(error))
    onnx.save(freed, Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
