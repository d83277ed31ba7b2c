"""The doubts about a draft: what its graph does not tell, for the person who completes the manifest.

It knows interpretations of graphs, not manifests and not runs. Invariant: every assumption of an interpretation is
among its doubts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.inspect.axes import STAND_IN, constant_of
from service.inspect.hints import Hints
from service.inspect.interpretation import Interpretation, told
from service.inspect.roles import free_axes, listed, several
from service.model.onnx_session import OnnxSession


def find_doubts(
    session: OnnxSession, interpretation: Interpretation, hints: Hints, *, others: Sequence[Interpretation]
) -> list[str]:
    """Return what the graph does not tell about `interpretation`, and which `others` work as well."""
    return [
        *_of_input(interpretation, hints),
        *_of_outputs(session, interpretation),
        *_of_states(interpretation, others),
        "provenance: where the weights come from, and their licence",
    ]


def _of_input(interpretation: Interpretation, hints: Hints) -> Iterator[str]:
    roles = interpretation.roles
    sequence, shape = roles.sequence, listed(roles.sequence_shape)
    for node in roles.constants:
        if node.name not in hints.constants:
            value = constant_of(node, hints)
            absent = f"the value is not in the graph; {STAND_IN} stands in for it"
            if isinstance(value, tuple):
                absent = f"the {len(value)} values are not in the graph; {STAND_IN} stands in for each"
            yield f"constants.{node.name}: {absent}"
    if sequence.dtype in ("int32", "int64"):
        yield (
            f"inputs[0]: what the numbers of {sequence.name} stand for, and the largest; where they are ids of a "
            "tokenizer, add its file as text"
        )
    else:
        yield f"inputs[0]: what the values of {sequence.name} are, their order, units and scaling"
    if roles.of_one_row:
        yield (
            f"inputs[0].shape: the graph takes one row a run, as batch is 1 or missing in {several(roles.of_one_row)}; "
            "each session's step is a run of its own, where a free batch axis lets sessions share runs: export it with "
            "one, or try --free-batch"
        )
    if sequence.name not in hints.axes and not _axes_are_told(interpretation):
        yield f"inputs[0].shape: {shape} is a guess that works; the axes' names do not tell"


def _axes_are_told(interpretation: Interpretation) -> bool:
    """Return whether there is a single free axis, or a single one with the name that the states' batch axis has."""
    free = [str(interpretation.roles.sequence.shape[axis]) for axis in free_axes(interpretation.roles.sequence)]
    batches = {str(state.shape[axis]) for state in interpretation.roles.states for axis in free_axes(state)} - {"None"}
    return len(free) < 2 or [name in batches for name in free].count(True) == 1


def _of_outputs(session: OnnxSession, interpretation: Interpretation) -> Iterator[str]:
    outputs, carried = interpretation.outputs, [output for _, output in interpretation.pairs]
    for index, name in enumerate(outputs):
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
            yield f"outputs: {node.name} {shape} is left out: it has not one row per step"


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
