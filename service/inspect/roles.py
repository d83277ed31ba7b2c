"""The roles that the inputs of a foreign graph can have: sequence, lengths, state or constant, and what each axis is.

This is how a step model is read; `service.inspect.plain` finds the roles of a plain one, which has several inputs.
Dtypes, axes, names and hints suggest them; `service.inspect.interpretation` tries them in runs. It knows what a graph
says of itself, not manifests. Invariant: in `Roles` every input has one role, and all that is fed by row has a batch
axis.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.contract.tensors import DTYPE_BYTES
from service.errors import ManifestError
from service.inspect.hints import Hints
from service.inspect.names import agree
from service.model.graph_check import holds_one_row, lacks_batch
from service.model.onnx_session import Node, OnnxSession

MAX_USES = 64  # for six inputs that could be a state or a constant
FEATURES = "features"  # an axis of the sequence whose size the graph does not tell
LACKING = -1  # the place of an axis that a tensor does not have
TIME_NAME = re.compile(r"time|seq|len|step|frame|^t$", re.IGNORECASE)
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Roles:
    """A role for each input of a graph; `shapes` names the axes of all but the constants.

    `inputs` are those that a manifest calls so, in the order of the graph: of a step model one, the sequence.

    A shape has a batch axis even if the graph has none, as in manifests.
    """

    inputs: tuple[Node, ...]
    lengths: Node | None
    constants: tuple[Node, ...]
    states: tuple[Node, ...]
    shapes: Mapping[str, Shape]

    @cached_property
    def sequence(self) -> Node:
        """The input that a manifest's `sequence` will be."""
        return next((node for node in self.inputs if "time" in self.shapes[node.name]), self.inputs[0])

    @cached_property
    def by_row(self) -> tuple[Node, ...]:
        return (*self.inputs, *self.states, *([self.lengths] if self.lengths else []))

    @property
    def sequence_shape(self) -> Shape:
        return self.shapes[self.sequence.name]

    @cached_property
    def resort(self) -> tuple[int, bool]:
        """How unlikely the roles are: the sequence could be a constant as well, or its features are not known."""
        constant = 2 - len(self.sequence.shape) if is_small(self.sequence) else 0
        return constant, FEATURES in self.sequence_shape

    @cached_property
    def of_one_row(self) -> list[Node]:
        """The inputs that limit a run to one row."""
        return [node for node in self.by_row if holds_one_row(node, self.shapes[node.name])]

    def size(self, node: Node, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of what `node` is fed if the named axes have `sizes`."""
        shape = self.shapes.get(node.name, node.shape)
        held = [axis for axis in shape if axis != "batch"] if lacks_batch(node, shape) else shape
        return tuple(axis if isinstance(axis, int) else sizes[str(axis)] for axis in held)

    def graph_name(self, node: Node, axis: str) -> str:
        """Return what the graph itself calls an axis of `node`, "" where it has no name for it."""
        shape = self.shapes[node.name]
        named = dict(zip(shape, node.shape, strict=True)) if len(shape) == len(node.shape) else {}
        name = named.get(axis)
        return name if isinstance(name, str) else ""


def find_roles(file: Path, session: OnnxSession, hints: Hints) -> list[Roles]:
    """Return the roles that the inputs can have: the likeliest first, those with features of unknown size last.

    Raises: ManifestError when Baton cannot feed the inputs in any role.
    """
    inputs = session.inputs
    for node in inputs:
        if node.dtype not in DTYPE_BYTES:
            message = f"{node.name} is {node.dtype}; a step model takes {', '.join(DTYPE_BYTES)}: export it in float32"
            raise ManifestError(file, "inputs", message)
    uses = {node.name: _uses(node, session.outputs, hints) for node in inputs}
    rest = [node for node in inputs if "state" in uses[node.name]]
    _check(file, rest, hints)
    found: list[Roles] = []
    for sequence in _sequences(file, inputs, hints):
        others = [node for node in inputs if node is not sequence]
        for chosen in itertools.islice(itertools.product(*(uses[node.name] for node in others)), MAX_USES):
            if chosen.count("lengths") <= 1 and "state" in chosen:
                found += _with_axes(sequence, dict(zip(others, chosen, strict=True)), hints)
    if not found:
        taken = ", ".join(node.name for node in rest) or "no sequence"
        raise ManifestError(
            file,
            "states",
            f"the graph has no state: it takes {taken} and begins anew with each run; export it with its states "
            "(h, c and the like) as inputs and outputs. A classifier or forecaster has none: it is a plain model "
            "(--task tensor), or of a task of its own where a manifest written by hand says so, as in docs/manifest.md",
        )
    return sorted(found, key=lambda roles: roles.resort)


def _uses(node: Node, outputs: Sequence[Node], hints: Hints) -> list[str]:
    """Return the roles of `node` if it is not the sequence, the likeliest first."""
    if node.name in hints.constants:
        return ["constant"]
    if node.name in hints.states:
        return ["state"]
    if is_named_like_lengths(node):
        comes_out = any((node.dtype, len(node.shape)) == (made.dtype, len(made.shape)) for made in outputs)
        return ["state", "lengths"] if comes_out else ["lengths"]
    alike = [made.name for made in outputs if (made.dtype, made.shape) == (node.dtype, node.shape)]
    if not is_small(node) or any(agree(node.name, name) for name in alike):
        return ["state"]
    return ["state", "constant"] if alike else ["constant"]


def is_named_like_lengths(node: Node) -> bool:
    return node.dtype in ("int32", "int64") and len(node.shape) == 1 and "len" in node.name.lower()


def is_small(node: Node) -> bool:
    """Return whether `node` can be a constant."""
    return len(node.shape) < 2 and not free_axes(node)


def _check(file: Path, rest: Sequence[Node], hints: Hints) -> None:
    """Check that no state has several sizes that are free.

    Raises: ManifestError with what to export differently, or which option to give.
    """
    long = [node for node in rest if len(free_axes(node)) > 1 and node.name not in hints.axes]
    timed = any("time" in axes for axes in hints.axes.values())
    if len(long) > (0 if timed else 1):
        message = (
            f"{several(long)} have several free axes each; one input is the sequence, and a state has one size for "
            "each row of the batch (what grows with every step, as attention's keys and values do, is none). Where the "
            f"sizes are fixed and the graph does not tell them, say them: --axis {long[-1].name}=1,batch,64"
        )
        raise ManifestError(file, "inputs", message)


def _sequences(file: Path, inputs: Sequence[Node], hints: Hints) -> list[Node]:
    """Return the inputs that can be the sequence by their axes; those that can be constants come last.

    Raises: ManifestError when there is none.
    """
    unsaid = [node for node in inputs if node.name not in {*hints.constants, *hints.states}]
    shapes = {node.name: hints.axes.get(node.name, node.shape) for node in unsaid}
    likely = [node for node in unsaid if "time" in hints.axes.get(node.name, ())]
    likely = likely or [node for node in unsaid if sum(not isinstance(s, int) for s in shapes[node.name]) > 1]
    likely = likely or sorted(unsaid, key=is_small)
    able = [node for node in likely if node.name in hints.axes or may_be_sequence(node.shape)]
    if likely and not able:
        raise ManifestError(file, "inputs[0].shape", unfit(likely))
    return able


def may_be_sequence(shape: Shape) -> bool:
    """Return whether `shape` has features on at most one axis; the second could be a time axis that was fixed."""
    return sum(isinstance(size, int) and size > 1 for size in shape) <= 1


def unfit(nodes: Sequence[Node]) -> str:
    return (
        f"the sequence has batch, time, and one size above 1, which is not so of {several(nodes)}: export batch and "
        "time as free axes, or of size 1; where several axes hold the features of one step, say it, as in "
        f"--axis {nodes[0].name}={','.join(['batch', *map(str, nodes[0].shape[1:])])}"
    )


def _with_axes(sequence: Node, uses: Mapping[Node, str], hints: Hints) -> Iterator[Roles]:
    """Yield the roles with each way to name the sequence's axes."""
    states = tuple(node for node, use in uses.items() if use == "state")
    lengths = next((node for node, use in uses.items() if use == "lengths"), None)
    constants = tuple(node for node, use in uses.items() if use == "constant")
    by_row = (*states, lengths) if lengths else states
    shapes = {node.name: hints.axes.get(node.name) or _state_shape(node) for node in by_row}
    fixed = not free_axes(sequence) or any(holds_one_row(node, shapes[node.name]) for node in by_row)
    batches = {str(node.shape[free[0]]) for node in by_row if (free := free_axes(node))} - {"None"}
    said = hints.axes.get(sequence.name)
    for shape in [said] if said else _layouts(sequence, batches, fixed=fixed):
        yield Roles((sequence,), lengths, constants, states, {**shapes, sequence.name: shape})


def _state_shape(node: Node) -> Shape:
    """Name the batch axis: the free axis, else an axis of size 1, else an axis that the graph lacks.

    Among several axes of size 1 it is the first, except in [1, 1, hidden]: ONNX's recurrent nodes have it second.
    """
    single = ones(node)
    places = free_axes(node) or (single[1:] if single == [0, 1] and len(node.shape) == 3 else single)
    return _named(node, {places[0]: "batch"}) if places else ("batch", *node.shape)


def _layouts(node: Node, batches: set[str], *, fixed: bool) -> list[Shape]:
    """Return the ways to name the axes of a sequence, the likeliest first.

    With `fixed` some input has no free axis: the graph takes one row, and a free axis of the sequence is likely time.
    """
    free, large = free_axes(node), [size for size in node.shape if isinstance(size, int) and size > 1]
    held = ones(node)[:1] or [LACKING]
    found: list[tuple[tuple[bool, bool, int], Shape]] = []
    for batch, time in itertools.product([*held, *free] if fixed else free, [*free, LACKING]):
        unknown = [axis for axis in free if axis not in (batch, time)]
        if (batch == time and batch != LACKING) or (unknown and len(unknown) + len(large) > 1):
            continue
        shape = _named(node, {**dict.fromkeys(unknown, FEATURES), time: "time", batch: "batch"})
        if batch == LACKING:
            shape = ("batch", *shape)
        found.append(((bool(unknown), time == LACKING, -_likely(node, batch, time, batches)), shape))
    return [shape for _, shape in sorted(found, key=lambda entry: entry[0])]


def _likely(node: Node, batch: int, time: int, batches: set[str]) -> int:
    """Return how well the names of two axes fit batch and time."""
    of_batch, of_time = ("" if axis == LACKING else str(node.shape[axis]) for axis in (batch, time))
    named = (of_batch in batches) - (of_time in batches)
    return named + bool(TIME_NAME.search(of_time)) - bool(TIME_NAME.search(of_batch))


def ones(node: Node) -> list[int]:
    return [axis for axis, size in enumerate(node.shape) if size == 1]


def free_axes(node: Node) -> list[int]:
    return [axis for axis, size in enumerate(node.shape) if not isinstance(size, int)]


def _named(node: Node, axes: Mapping[int, str]) -> Shape:
    return tuple(axes.get(axis, size) for axis, size in enumerate(node.shape))


def listed(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def several(nodes: Sequence[Node]) -> str:
    *others, last = (f"{node.name} {listed(node.shape)}" for node in nodes)
    return f"{', '.join(others)} and {last}" if others else last
