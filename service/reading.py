"""Reading a foreign graph: which input is the sequence, which are states, and where their next values come out.

Names and axes suggest readings, and running the graph tells the shapes of its outputs, whatever the file says of them.
Which reading is right is for `service.inspection` to try. It knows graphs, not manifests. Invariant: in a `Reading`
every input has one role, and every state comes out with the type and shape that it goes in with.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import ManifestError
from service.runtime import Node, Session
from service.tensors import DTYPE_BYTES

STAND_IN = 1  # for a constant, whose value no graph tells; 0 would divide by zero where it divides
MOST_READINGS = 24  # all orders of four states of one shape
SIZES = ({"batch": 2, "time": 3}, {"batch": 5, "time": 3}, {"batch": 2, "time": 7})
DIRECTIONS = {
    *("in", "out", "input", "output", "prev", "previous", "past", "new", "next", "cur", "current", "present"),
    *("init", "initial", "start", "final", "last", "updated", "n", "t"),
}
TIME_NAME = re.compile(r"time|seq|len|step|frame|^t$", re.IGNORECASE)
Shape = tuple[int | str | None, ...]
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Roles:
    """What each input of a graph is taken for; `shapes` names the axes of all but the constants."""

    sequence: Node
    lengths: str | None
    constants: tuple[Node, ...]
    states: tuple[Node, ...]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class Reading:
    """One way to understand a graph.

    `made` has the shapes that runs showed of the outputs, but for those of types that Baton does not handle.
    `likeness` is how far the names of the pairs speak for it, `in_order` how many pairs stand in the same order at the
    end of inputs and outputs.
    """

    roles: Roles
    made: Mapping[str, Shape]
    pairs: Pairs

    @property
    def likeness(self) -> float:
        return round(sum(likeness(*pair) for pair in self.pairs), 6)

    @property
    def in_order(self) -> int:
        last = list(self.made)[-len(self.pairs) :]
        return sum(output == place for (_, output), place in zip(self.pairs, last, strict=False))

    @property
    def outputs(self) -> list[str]:
        """The outputs that answer, with one row for each step of each row of the batch; a state's if no other does."""
        taken = {output for _, output in self.pairs}
        timed = "time" in self.roles.shapes[self.roles.sequence.name]
        able = [
            name
            for name, shape in self.made.items()
            if None not in shape and shape.count("batch") == 1 and shape.count("time") == timed
        ]
        return [name for name in able if name not in taken] or able


def find_readings(file: Path, session: Session) -> list[Reading]:
    """Return the ways to understand the graph of `session`, loaded from `file`: the likeliest first, 24 at most.

    Raises: ManifestError when there is none, with the reason.
    """
    found: list[Reading] = []
    refusals = []
    for roles in _roles(file, session):
        try:
            made = _measure(session, roles)
        except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; it is reported
            shown = ", ".join(f"{name} {listed(shape)}" for name, shape in roles.shapes.items())
            refusals.append(f"the graph does not run with {shown}: {failure}")
            continue
        matches = {state.name: _matches(session, roles, made, state) for state in roles.states}
        lonely = _lonely(roles, matches)
        pairings = [] if lonely else itertools.islice(_pairings(matches), MOST_READINGS)
        answering = [reading for pairs in pairings if (reading := Reading(roles, made, pairs)).outputs]
        if lonely and not _may_be_sequence(lonely[0]):
            refusals.append(_unfit(lonely[:1]))
        elif lonely:
            name = lonely[0].name
            refusals.append(
                f"no output {'is left with' if matches[name] else 'has'} the type and shape of {name} "
                f"{listed(roles.shapes[name])}, so it is no state, and the sequence is {roles.sequence.name}; a state "
                "comes out as it goes in, and all else is one input"
            )
        elif not answering:
            refusals.append("beside the states, no output has one row per step; the graph needs one to answer with")
        found += answering
    if not found:
        raise ManifestError(file, "states", refusals[0])
    return sorted(found, key=lambda reading: (-reading.likeness, -reading.in_order))[:MOST_READINGS]


def _roles(file: Path, session: Session) -> Iterator[Roles]:
    """Yield what the inputs can be, by their types, axes and names.

    Raises: ManifestError when they can be nothing that Baton feeds.
    """
    returned = {(node.dtype, node.shape) for node in session.outputs}
    fixed = [node for node in session.inputs if len(node.shape) < 2 and not free_axes(node)]
    constants = [node for node in fixed if (node.dtype, node.shape) not in returned]
    lengths = [n for n in session.inputs if n.dtype.startswith("int") and len(n.shape) == 1 and "len" in n.name.lower()]
    rest = [node for node in session.inputs if node not in constants and node not in lengths] or session.inputs
    _check_inputs(file, session.inputs, rest)
    for sequence in _sequences(file, rest):
        states = tuple(node for node in rest if node is not sequence)
        shapes = {node.name: _named(node, {free_axes(node)[0]: "batch"}) for node in (*states, *lengths)}
        batches = {node.shape[free_axes(node)[0]] for node in (*states, *lengths)}
        for axes in _layouts(sequence, batches):
            yield Roles(
                sequence,
                lengths[0].name if lengths else None,
                tuple(constants),
                states,
                {**shapes, sequence.name: _named(sequence, axes)},
            )


def _check_inputs(file: Path, inputs: Sequence[Node], rest: Sequence[Node]) -> None:
    """Check that `rest` can be a sequence and its states.

    Raises: ManifestError with what to export differently.
    """
    for node in inputs:
        if node.dtype not in DTYPE_BYTES:
            message = f"{node.name} is {node.dtype}; Baton feeds {', '.join(DTYPE_BYTES)}: export the model in float32"
            raise ManifestError(file, "inputs", message)
    if fixed := [node for node in rest if not free_axes(node)]:
        raise ManifestError(
            file,
            "inputs",
            f"no axis is free in {_several(fixed)}: the graph was exported for one batch size, and Baton runs the "
            "sessions of many clients as one batch; export it with a free batch axis (dynamic_shapes or dynamic_axes "
            "of torch.onnx.export)",
        )
    if len(rest) < 2:
        raise ManifestError(
            file,
            "states",
            f"the graph has no state: it takes {', '.join(n.name for n in rest) or 'no sequence'} and begins anew with "
            "each run; export it with its states (h, c and the like) as inputs and outputs. A classifier or forecaster "
            "has none: write its manifest by hand, as docs/manifest.md says for its task",
        )
    if len(long := [node for node in rest if len(free_axes(node)) > 1]) > 1:
        message = (
            f"{_several(long)} have several free axes each; one input is the sequence, and a state has one size for "
            "each row of the batch (what grows with every step, as attention's keys and values do, is none)"
        )
        raise ManifestError(file, "inputs", message)


def _sequences(file: Path, rest: Sequence[Node]) -> list[Node]:
    """Return which inputs can be the sequence, by their axes.

    Raises: ManifestError when none can.
    """
    likely = [node for node in rest if len(free_axes(node)) > 1] or rest
    able = [node for node in likely if _may_be_sequence(node)]
    if not able:
        raise ManifestError(file, "inputs[0].shape", _unfit(likely))
    return able


def _may_be_sequence(node: Node) -> bool:
    large = [size for size in node.shape if isinstance(size, int) and size > 1]
    return len(free_axes(node)) <= 2 and len(large) <= 1


def _unfit(nodes: Sequence[Node]) -> str:
    return (
        f"the sequence has batch, time, and one size above 1 at most, which is not so of {_several(nodes)}: export "
        "a time axis as a free one, join several axes of features to one, and fix their size"
    )


def _layouts(sequence: Node, batches: set[int | str | None]) -> list[dict[int, str]]:
    """Return which of the sequence's free axes can be batch and time, the likeliest first."""
    free = free_axes(sequence)
    if len(free) == 1:
        return [{free[0]: "batch"}]
    first, second = (sequence.shape[axis] for axis in free)
    batch_first, time_first = ({free[0]: one, free[1]: other} for one, other in (("batch", "time"), ("time", "batch")))
    if isinstance(first, str) and first in batches:
        return [batch_first]
    if isinstance(second, str) and second in batches:
        return [time_first]
    return [time_first, batch_first] if TIME_NAME.search(str(first)) else [batch_first, time_first]


def _measure(session: Session, roles: Roles) -> dict[str, Shape]:
    """Run the graph at a few sizes; return its outputs' shapes, None for an axis that goes with neither batch nor time.

    Exporters write wrong sizes where a step once ran at one size, so what the file says of its outputs is not asked.
    """
    names = [node.name for node in session.outputs if node.dtype in DTYPE_BYTES]
    runs = []
    for sizes in SIZES:
        feeds = {
            node.name: np.zeros([_size(axis, sizes) for axis in roles.shapes.get(node.name, node.shape)], node.dtype)
            for node in session.inputs
        }
        if roles.lengths is not None:
            feeds[roles.lengths] += sizes["time"]
        for node in roles.constants:
            feeds[node.name] += STAND_IN
        runs.append([tensor.shape for tensor in session.run(names, feeds)])
    kinds = {tuple(sizes[axis] for sizes in SIZES): axis for axis in SIZES[0]}
    made = {}
    for name, *shapes in zip(names, *runs, strict=True):
        axes = zip(*shapes, strict=True)
        made[name] = tuple(sizes[0] if len(set(sizes)) == 1 else kinds.get(sizes) for sizes in axes)
    return made


def _size(axis: int | str | None, sizes: Mapping[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes[str(axis)]


def _matches(session: Session, roles: Roles, made: Mapping[str, Shape], state: Node) -> list[str]:
    """Return the outputs that can be the next value of `state`, the likeliest names first."""
    shape = roles.shapes[state.name]
    names = [node.name for node in session.outputs if node.dtype == state.dtype and made[node.name] == shape]
    return sorted(names, key=lambda name: -likeness(state.name, name))


def _lonely(roles: Roles, matches: Mapping[str, list[str]]) -> list[Node]:
    """Return the states of those types and shapes that have fewer outputs than states."""
    alike = Counter(tuple(sorted(outputs)) for outputs in matches.values())
    return [state for state in roles.states if alike[group := tuple(sorted(matches[state.name]))] > len(group)]


def _pairings(matches: Mapping[str, list[str]], taken: Pairs = ()) -> Iterator[Pairs]:
    """Yield each way to give every input one of its matches, none twice."""
    if len(taken) == len(matches):
        yield taken
        return
    name = list(matches)[len(taken)]
    for output in matches[name]:
        if all(output != other for _, other in taken):
            yield from _pairings(matches, (*taken, (name, output)))


def likeness(given: str, made: str) -> float:
    """Return how much alike two names are, 0 to 1, words such as `in` and `next` left out: h0 and hn are the same."""
    (one, number), (other, other_number) = _stem(given), _stem(made)
    same = difflib.SequenceMatcher(None, one, other).ratio() if one and other else 0.0
    return same / 2 if number and other_number and number != other_number else same


def _stem(name: str) -> tuple[str, str]:
    """Return the letters of a name that stand for what it is, and its digits."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)]
    letters = [word for word in words if not word.isdigit() and word not in DIRECTIONS]
    letters = [word[0] if re.fullmatch(r"[a-z](n|t|in|out|x)", word) else word for word in letters]  # hn, cx
    return "".join(letters), "".join(word for word in words if word.isdigit())


def free_axes(node: Node) -> list[int]:
    return [axis for axis, size in enumerate(node.shape) if not isinstance(size, int)]


def _named(node: Node, axes: Mapping[int, str]) -> Shape:
    return tuple(axes.get(axis, size) for axis, size in enumerate(node.shape))


def listed(shape: Shape) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _several(nodes: Sequence[Node]) -> str:
    *most, last = (f"{node.name} {listed(node.shape)}" for node in nodes)
    return f"{', '.join(most)} and {last}" if most else last


def told(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{given} -> {output}" for given, output in pairs)
