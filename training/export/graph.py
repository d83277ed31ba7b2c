"""Export: a trained network becomes one ONNX graph, exact on ragged batches.

It knows graphs and their signatures, not tasks, data or directories. Invariant: a graph that `export` returned passes
ONNX's checker and holds exactly one recurrent node per layer, each with constant weights and `sequence_lens`.
"""

from __future__ import annotations

import copy
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn
from torch.onnx import OnnxExporterError

from service.contract.provenance import Network
from service.contract.tensors import State, Tensor
from service.errors import StartupError
from training.export.compact import hold_in_float16
from training.export.explicit import ExplicitLayers, LayerError
from training.networks.nodes import OPSET
from training.networks.recurrent import Recurrent

Array = npt.NDArray[Any]
Session = list[Array]  # one row's states, in manifest order
RECURRENT_NODES = {"RNN", "LSTM", "GRU"}
LENGTHS, MEMORY_LENGTHS = "lengths", "memory_lengths"
NOT_THE_NETWORKS = tuple(  # where lines of code are not the network's own
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])
)
EXAMPLE_ROOM = 7  # of a traced memory, beside its one entry: tracing takes sizes that are alike, or 1, for one number
HARMLESS_WARNINGS = (
    r"isinstance\(treespec, LeafSpec\)",  # PyTorch 2.13 copies its own objects in a way that it deprecates
    "The axis name: batch will not be used, since it shares",  # every batch axis is the one batch axis
)


class ExportError(StartupError):
    """The exported graph is not what Baton serves; the message says in which respect."""


@dataclass(frozen=True)
class Servable:
    """A network with what its graph takes and gives.

    `network(sequence, lengths, *constants, *states)` returns its outputs, then the states that have an output, in the
    order declared here. With a ragged state the sizes of the rows' memories come behind `lengths`. Where `sequence` has
    no time axis, the graph takes one step a run and no lengths; the network is given both anyway, a time axis of 1.
    `constants` are float32 vectors that the service feeds as the manifest holds them. `draw(rng, length)` makes one
    plausible row of the sequence, [length] or [length, features], for the example and for parity; `row_lengths` are the
    lengths worth trying. With `float16_weights` the graph's file holds the weights in float16, which must be exact, and
    computes in float32. `start` makes what sessions begin with.
    """

    network: nn.Module
    sequence: Tensor
    outputs: tuple[Tensor, ...]
    draw: Callable[[np.random.Generator, int], Array]
    states: tuple[State, ...] = ()
    streamable: bool = False
    row_lengths: tuple[int, ...] = (1, 2, 3, 5, 8, 13, 21)
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    float16_weights: bool = False
    start: Starting | None = None

    @property
    def lengths(self) -> str | None:
        """The input with each row's length, where rows have any."""
        return LENGTHS if self.sequence.has_time else None

    @property
    def memory_lengths(self) -> str | None:
        """The input with the size of each row's memory, where rows have any."""
        return MEMORY_LENGTHS if any(state.ragged for state in self.states) else None

    @property
    def input_names(self) -> list[str]:
        lengths = [name for name in (self.lengths, self.memory_lengths) if name is not None]
        return [self.sequence.name, *lengths, *self.constants, *(state.input for state in self.states)]

    @property
    def output_names(self) -> list[str]:
        return [*(tensor.name for tensor in self.outputs), *(state.output for state in self.states if state.output)]

    def collate(self, rows: list[Array], width: int | None = None) -> tuple[Array, Array]:
        """Stack rows. Shapes: returns [batch, width or longest, ...], zero beyond each length, and lengths [batch]."""
        width = width or max(len(row) for row in rows)
        steps = np.zeros((len(rows), width, *rows[0].shape[1:]), self.sequence.dtype)
        for place, row in zip(steps, rows, strict=True):
            place[: len(row)] = row
        return steps, np.array([len(row) for row in rows], np.int32)

    def constant_arrays(self) -> list[Array]:
        """Return the constants as the graph takes them. Shapes: each [values]."""
        return [np.array(values, np.float32) for values in self.constants.values()]

    def arguments(
        self, steps: Array, lengths: Array, sessions: Sequence[Session] | None = None, room: int = 0
    ) -> list[Array]:
        """Return what the network takes; without `sessions` all are new. Memories are padded with zeros, with `room`
        beyond the longest. Shapes: as `collate`."""
        states = [*zip(*(sessions or [self.new_session()] * len(steps)), strict=True)]
        sizes = [[len(own) for own in rows] for state, rows in zip(self.states, states, strict=True) if state.ragged]
        memory = [np.array(sizes[0], np.int32)] if sizes else []
        batched = [_stacked(state, rows, room) for state, rows in zip(self.states, states, strict=True)]
        return [steps, lengths, *memory, *self.constant_arrays(), *batched]

    def feeds(
        self, steps: Array, lengths: Array, sessions: Sequence[Session] | None = None, room: int = 0
    ) -> dict[str, Array]:
        """Return what the graph takes by name. Shapes and the rest: as `arguments`."""
        given = self.arguments(steps, lengths, sessions, room)
        read = given if self.sequence.has_time else [steps[:, 0], *given[2:]]
        return dict(zip(self.input_names, read, strict=True))

    def new_session(self, made: Mapping[str, Array] | None = None) -> Session:
        """Return the states that a session begins with: those in `made`, by name, and the others' `start`, a memory
        with one entry."""
        starts = {state.input: np.array(state.start, state.dtype) for state in self.states}
        shapes = {state.input: (1,) * state.ragged + state.row_shape for state in self.states}
        return [
            made[name] if made and name in made else np.broadcast_to(start, shapes[name])
            for name, start in starts.items()
        ]


@dataclass(frozen=True)
class Starting:
    """The start graph: `graph` reads a condition, and `states` names for each state the output that it begins with.

    `networks` are its recurrent stacks.
    """

    graph: Servable
    states: Mapping[str, str]
    networks: tuple[Network, ...] = ()

    def session(self, servable: Servable, outputs: Sequence[Array]) -> Session:
        """Return the new session that begins with the start graph's `outputs` for one condition."""
        made = dict(zip(self.graph.output_names, outputs, strict=True))
        return servable.new_session({state: made[output] for state, output in self.states.items()})


def _stacked(state: State, rows: Sequence[Array], room: int) -> Array:
    """Stack a state's rows as the graph takes them."""
    if state.ragged:
        width = max(len(row) for row in rows) + room
        rows = [np.concatenate([row, np.zeros((width - len(row), *state.row_shape), state.dtype)]) for row in rows]
    return np.stack(rows).transpose(state.graph_order)


def export(servable: Servable) -> bytes:
    """Return the network as ONNX bytes with dynamic batch and time.

    Raises: ExportError when the graph breaks this module's invariant, or PyTorch cannot make one; LayerError.
    """
    network = _Flat(copy.deepcopy(servable.network), timed=servable.sequence.has_time).cpu().eval()
    program = _traced(servable, network)
    declared = {*servable.input_names, *servable.output_names}
    for value in (output for node in program.model.graph for output in node.outputs if output.name in declared):
        if not value.is_graph_output():  # the exporter does not see to it that its own names are others
            value.name = f"{value.name}_within"
    graph = program.model_proto
    forget_sources(graph)
    check_graph(graph, layers=network.nodes)
    if servable.float16_weights:
        hold_in_float16(graph)
    return bytes(graph.SerializeToString())


def _traced(servable: Servable, network: _Flat) -> torch.onnx.ONNXProgram:
    rng = np.random.default_rng(0)
    rows = [servable.draw(rng, length) for length in sorted(servable.row_lengths)[-2:]]
    example = servable.feeds(*servable.collate(rows), room=EXAMPLE_ROOM)
    axes: dict[str, dict[int, str]] = {name: {} for name in servable.constants}
    for state in servable.states:
        axes[state.input] = {place: axis for place, axis in enumerate(state.shape) if isinstance(axis, str)}
    axes |= {LENGTHS: {0: "batch"}, MEMORY_LENGTHS: {0: "batch"}, servable.sequence.name: {0: "batch"}}
    if servable.sequence.has_time:
        axes[servable.sequence.name][1] = "time"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every optional package that is not there
    with warnings.catch_warnings():
        for harmless in HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", f".*{harmless}")
        try:
            program = torch.onnx.export(
                network,
                tuple(torch.from_numpy(array) for array in example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=servable.input_names,
                output_names=servable.output_names,
                dynamic_shapes=(tuple(axes[name] for name in example),),
                verbose=False,
            )
        except OnnxExporterError as failure:
            raise _explained(failure) from failure
    assert program is not None
    return program


def forget_sources(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes of each node's origin: lines of code, and paths of the machine it ran on."""
    for part in (model, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
    _forget(model.graph)


def _forget(graph: onnx.GraphProto) -> None:
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for body in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        _forget(body)


class _Flat(nn.Module):
    """Give every network the same signature, which one declaration of dynamic axes fits, and let each recurrent layer
    become a node."""

    def __init__(self, network: nn.Module, timed: bool) -> None:
        super().__init__()
        self.network, self._timed = network, timed
        self._stacks = [module for module in network.modules() if isinstance(module, Recurrent)]
        for stack in self._stacks:
            stack.prepare_export()
        ours = {layer for stack in self._stacks for layer in stack.layers}
        named = ((name, module) for name, module in network.named_modules() if module not in ours)
        self._explicit = ExplicitLayers((name, module) for name, module in named if isinstance(module, nn.RNNBase))

    @property
    def nodes(self) -> int:
        """How many nodes the last trace made."""
        return self._explicit.nodes + sum(len(stack.layers) for stack in self._stacks)

    def forward(self, *tensors: torch.Tensor) -> Any:
        if not self._timed:
            step, *more = tensors
            tensors = (step[:, None], step.new_ones(step.shape[0], dtype=torch.int32), *more)
        sequence, lengths, *_ = tensors
        # Tracing takes the two for different numbers otherwise.
        torch._check(sequence.shape[0] == lengths.shape[0])  # type: ignore[no-untyped-call]
        with self._explicit.reading(sequence.shape[1], lengths):
            return self.network(*tensors)


ADVICE = {
    "data-dependent": "values may not decide what runs next, nor how large a tensor is: choose with torch.where, and "
    "hand lengths on as the tensor that they are",
    "inferred a static shape": "the network fixes an axis that must stay free: it loops over steps or rows in Python, "
    "or holds a size of its example",
    "No ONNX function found": "ONNX does not have one of its operations: write it with others",
}


def _explained(failure: OnnxExporterError) -> StartupError:
    """Return what stopped the exporter, which wraps it several times."""
    causes = _causes(failure)
    if isinstance(causes[-1], LayerError):
        return causes[-1]
    said = str(causes[-1]).partition("\n\n")[0]
    advice = [right for sign, right in ADVICE.items() if sign in said]
    return ExportError("; ".join([f"PyTorch cannot export the network{line_of(failure)}", *advice, f"it says: {said}"]))


def line_of(failure: BaseException) -> str:
    """Return the innermost line of the network's own code that `failure` came through, in words; "" if none did."""
    frames = [frame for cause in _causes(failure) for frame in traceback.extract_tb(cause.__traceback__)]
    own = [frame for frame in frames if not frame.filename.startswith(NOT_THE_NETWORKS)]
    return f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].line})" if own else ""


def _causes(failure: BaseException) -> list[BaseException]:
    causes = [failure]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes


def check_graph(graph: onnx.ModelProto, layers: int) -> None:
    """Check that `graph` is valid and holds `layers` recurrent nodes with constant weights and `sequence_lens`.

    Raises: ExportError.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as failure:
        raise ExportError(f"ONNX's checker refuses the graph: {failure}") from failure
    nodes = [node for node in graph.graph.node if node.op_type in RECURRENT_NODES]
    if len(nodes) != layers:
        raise ExportError(f"the graph has {len(nodes)} recurrent nodes for {layers} layers; each must be one, in use")
    constant = {initializer.name for initializer in graph.graph.initializer}
    for node in nodes:
        weights, lengths = [*node.input[1:4], *node.input[7:8]], node.input[4:5]  # W, R, B, and an LSTM's P
        if not constant.issuperset(weights):
            computed = ", ".join(sorted(set(weights) - constant))
            raise ExportError(f"{node.name} computes its weights {computed} in the graph; they must be initializers")
        if not any(lengths):
            raise ExportError(f"{node.name} has no sequence_lens, so padding would change its states")
