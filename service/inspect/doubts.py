"""The doubts about a draft: what its graph does not tell, for the person who completes the manifest.

It knows interpretations of graphs, not manifests and not runs. Invariant: every assumption of an interpretation is
among its doubts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from service.inspect.axes import STAND_IN, constant_of
from service.inspect.hints import Hints
from service.inspect.interpretation import Interpretation, told
from service.inspect.roles import TIME_NAME, Roles, free_axes, listed, several
from service.model.onnx_session import Node, OnnxSession, array_dtype


def find_doubts(
    session: OnnxSession, interpretation: Interpretation, hints: Hints, *, others: Sequence[Interpretation]
) -> list[str]:
    """Return what the graph does not tell about `interpretation`, and which `others` work as well."""
    return [
        *_of_constants(interpretation, hints),
        *_of_inputs(interpretation, hints),
        *_of_outputs(session, interpretation, hints),
        *(_of_shapes(interpretation, others) if interpretation.plain else _of_states(interpretation, others)),
        "provenance: where the weights come from, and their licence",
    ]


def _of_constants(interpretation: Interpretation, hints: Hints) -> Iterator[str]:
    for node in interpretation.roles.constants:
        if node.name not in hints.constants:
            value = constant_of(node, hints)
            absent = f"the value is not in the graph; {STAND_IN} stands in for it"
            if isinstance(value, tuple):
                absent = f"the {len(value)} values are not in the graph; {STAND_IN} stands in for each"
            yield f"constants.{node.name}: {absent}"


def _of_inputs(interpretation: Interpretation, hints: Hints) -> Iterator[str]:
    roles = interpretation.roles
    for index, node in enumerate(roles.inputs):
        if node is roles.sequence and hints.tokenizer is not None:
            continue
        if np.issubdtype(array_dtype(node.dtype), np.integer):
            ids = "" if interpretation.plain else "; where they are ids of a tokenizer, name its file: --tokenizer"
            yield f"inputs[{index}]: what the numbers of {node.name} stand for, and the largest{ids}"
        else:
            yield f"inputs[{index}]: what the values of {node.name} are, their order, units and scaling"
    if roles.of_one_row:
        yield (
            f"inputs[0].shape: the graph takes one row a run, as batch is 1 or missing in {several(roles.of_one_row)}; "
            "each row, and each step of a session, is a run of its own, where a free batch axis lets them share runs: "
            "export it with one, or try --free-batch"
        )
    for index, node in enumerate(roles.inputs):
        if node.name not in hints.axes and not _axes_are_told(roles, node):
            shape = listed(roles.shapes[node.name])
            yield f"inputs[{index}].shape: {shape} is a guess that works; the axes' names do not tell"


def _axes_are_told(roles: Roles, node: Node) -> bool:
    """Return whether an input has a single free axis, or a single one with the name of an only free axis, which is the
    batch, or a single one that is named like time."""
    free = [str(node.shape[axis]) for axis in free_axes(node)]
    single = [other.shape[axes[0]] for other in roles.by_row if len(axes := free_axes(other)) == 1]
    batches = {str(name) for name in single if name is not None}
    by_batch, by_time = [name in batches for name in free], [bool(TIME_NAME.search(name)) for name in free]
    return len(free) < 2 or by_batch.count(True) == 1 or by_time.count(True) == 1


def _of_outputs(session: OnnxSession, interpretation: Interpretation, hints: Hints) -> Iterator[str]:
    outputs, carried = interpretation.outputs, [output for _, output in interpretation.pairs]
    for index, name in enumerate(outputs):
        if name not in hints.labels:
            yield f"outputs[{index}]: what the values of {name} mean; labels can name them"
    if answering := [pair for pair in interpretation.pairs if pair[1] in outputs]:
        yield (
            f"outputs: no output but states is left to answer with, so {told(answering)} is both: is it a state "
            "indeed, and the answer?"
        )
    for node in session.outputs:
        if node.name not in interpretation.made:
            yield f"outputs: {node.name} is left out: its type is {node.dtype}"
        elif node.name not in (*outputs, *carried):
            shape = listed(interpretation.made[node.name])
            lacking = f"it has not one row per {'row of the inputs' if interpretation.plain else 'step'}"
            if interpretation.answer is not None:
                lacking = "the task has one output"
            yield f"outputs: {node.name} {shape} is left out: {lacking}"


def _of_shapes(interpretation: Interpretation, others: Sequence[Interpretation]) -> Iterator[str]:
    roles = interpretation.roles
    timed = [node for node in roles.inputs if "time" in roles.shapes[node.name]]
    names = {roles.graph_name(node, "time") for node in timed}
    if len(timed) > 1 and (len(names) > 1 or "" in names):
        yield f"inputs: whether a row is equally long in {several(timed)}, as it must be: time is one axis"
    for other in others:
        for node in roles.inputs:
            if (shape := other.roles.shapes[node.name]) != roles.shapes[node.name]:
                yield f"inputs: {node.name} {listed(shape)} works as well"


def _of_states(interpretation: Interpretation, others: Sequence[Interpretation]) -> Iterator[str]:
    shape, timed = interpretation.roles.sequence_shape, "time" in interpretation.roles.sequence_shape
    if interpretation.guessed:
        yield f"states: {told(interpretation.guessed)} by type, shape and order alone; the names are not alike"
    for other in others:
        if other.pairs != interpretation.pairs:
            yield f"states: {told(other.pairs)} works as well; the names do not tell which is right"
        elif other.roles.sequence_shape != shape and "time" in other.roles.sequence_shape and timed:
            yield f"inputs[0].shape: {listed(other.roles.sequence_shape)} works as well"
    if not timed:
        yield (
            "states: the pairs are read from names and shapes; without a time axis a wrong pair answers as smoothly "
            "as a right one, so compare a few steps with the original"
        )
    yield "states: whether sessions begin at zeros, as drafted; start takes other values"
