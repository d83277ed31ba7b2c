"""Quantization: a float32 graph becomes one that computes its recurrent layers in int8 or float16.

It knows graphs, not tasks, figures or directories. Inputs, outputs and states keep their names, types and shapes, so
that manifest and clients stay as they are. Invariant: what comes out is the graph that went in, except for the
precision of the nodes that hold weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.export.graph import RECURRENT_NODES, ExportError

Quantized = Literal["int8", "float16"]

WEIGHED = {*RECURRENT_NODES, "Gemm", "MatMul", "Gather"}


def to_int8(graph: bytes) -> bytes:
    """Quantise every LSTM, with or without peepholes: seven-bit weights, activations scaled to uint8 at each run.

    Weights have a scale for each gate's row and seven of the eight bits. Without VNNI, ONNX Runtime adds two products
    in 16 bits, and those of eight-bit weights saturate there; sums of seven-bit weights are exact, and so the same on
    every x86-64 processor. Eight bits that are exact everywhere (uint8 weights) are half as fast with VNNI;
    docs/training.md has the figures. Nothing but the LSTMs is quantised: on a two-layer sentiment model the embedding
    table in int8 as well moved the scores half as much again, and neither that table nor the head made it any faster.

    Raises: ExportError when a recurrent layer is no LSTM.
    """
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(graph)
    cells = {node.op_type for node in model.graph.node} & RECURRENT_NODES
    if cells != {"LSTM"}:
        raise ExportError(
            f"int8 is for networks whose recurrent layers are all LSTM, and this one has {_listed(cells)}: ONNX "
            "Runtime has an int8 kernel for LSTM and for no other recurrent cell; train it with LSTM layers, or "
            "publish it in float16 for a GPU"
        )
    # The exporter's shapes of inner tensors stand in the way: the quantiser transposes Gemm's weights under them.
    del model.graph.value_info[:]
    add_pre_process_metadata(model)  # the exporter has done what the quantiser otherwise warns of
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "int8.onnx")
        quantize_dynamic(model, made, op_types_to_quantize=["LSTM"], per_channel=True, reduce_range=True)
        return _checked(onnx.load(made))


def to_float16(graph: bytes) -> bytes:
    """Hold all weights in float16, and compute the nodes that use them in it.

    Casts stand around those nodes, and all else stays float32. A converter that sends every tensor through float16 will
    not do: it ends at 65,504, which the values of a series, or the scale taken from them, may pass.

    Raises: ExportError when a weight is beyond float16.
    """
    model = onnx.load_from_string(graph)
    del model.graph.value_info[:]
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    floats = _float_tensors(graph)
    nodes: list[onnx.NodeProto] = []
    halved: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in WEIGHED or not weights.keys() & set(node.input):
            nodes.append(node)
            continue
        halved |= weights.keys() & set(node.input)
        nodes += _within_casts(node, floats - weights.keys())
    shared = {name for node in nodes if node.op_type not in WEIGHED for name in node.input} & halved
    if shared:
        raise ExportError(f"{_listed(shared)} is a weight that other nodes use as well, so it cannot become float16")
    for name in halved:
        weights[name].CopyFrom(_in_float16(weights[name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _checked(model)


QUANTIZERS: dict[Quantized, Callable[[bytes], bytes]] = {"int8": to_int8, "float16": to_float16}


def _float_tensors(graph: bytes) -> set[str]:
    """Name every tensor of the graph that is float32."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)).graph
    told = (*inferred.input, *inferred.value_info, *inferred.output)
    named = {value.name for value in told if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return named | {tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT}


def _within_casts(node: onnx.NodeProto, floats: set[str]) -> list[onnx.NodeProto]:
    before, after = [], []
    for index, name in enumerate(node.input):
        if name in floats:
            node.input[index] = f"{node.name}_in{index}_float16"
            before.append(helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT16))
    for index, name in enumerate(node.output):
        if name:
            node.output[index] = f"{node.name}_out{index}_float16"
            after.append(helper.make_node("Cast", [node.output[index]], [name], to=TensorProto.FLOAT))
    return [*before, node, *after]


def _in_float16(weight: TensorProto) -> TensorProto:
    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(weight).astype(np.float16)
    if not np.isfinite(values).all():
        raise ExportError(f"{weight.name} holds a weight beyond {int(np.finfo(np.float16).max):,}, the end of float16")
    return numpy_helper.from_array(values, weight.name)


def _checked(model: onnx.ModelProto) -> bytes:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as failure:
        raise ExportError(f"ONNX's checker refuses the quantized graph: {failure}") from failure
    return bytes(model.SerializeToString())


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
