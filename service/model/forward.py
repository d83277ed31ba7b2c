"""The forward pass of one model: rows and states in, outputs and states out, whatever the form of its graph.

Rows are `[time, *rest]`, beside them `[*sizes]` where an input has no time, and states are bytes; the graph has its
axes in any order, and a time axis or not. It knows manifests and arrays, not how texts become ids, nor queues or
tokens. A graph whose batch axis is 1, or not there, runs a row at a time.
Invariants: every tensor that the graph makes has its declared shape or the run fails; states go in and come out in
manifest order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.contract.manifest import Manifest
from service.contract.parts import Constant
from service.contract.tensors import Shape, State
from service.errors import ManifestError
from service.model.graph_check import lacks_batch, takes_one_row
from service.model.layout import StateLayout
from service.model.onnx_session import Array, Node, OnnxSession, array_dtype
from service.model.row_states import RowStates, padded


class Made(NamedTuple):
    """The outputs of a row, its state after them, and whether all of it is finite."""

    outputs: dict[str, Array]
    state: bytes
    finite: bool


class Forward:
    """A loaded graph, run as its manifest says."""

    def __init__(self, session: OnnxSession, file: Path, manifest: Manifest) -> None:
        """Take a session that passed `check_graph` with `manifest`, which was read from `file`."""
        self._session, self._file, self._manifest = session, file, manifest
        self._sequence, self._states = manifest.sequence, manifest.states
        self._made = [(f"outputs[{i}]", t.name, t.shape) for i, t in enumerate(manifest.outputs)]
        self._made += [(f"states[{i}].output", s.output, s.shape) for i, s in enumerate(self._states) if s.output]
        self._finite = manifest.finite
        self._names = [name for _, name, _ in self._made]
        self._leading = 2 if self._sequence.has_time else 1  # axes before those of a step: batch, and time
        self._by_time = [output.has_time or not self._sequence.has_time for output in manifest.outputs]
        nodes = {node.name: node for node in session.inputs}
        fed = manifest.by_row
        self._one_row = takes_one_row(session, manifest)
        self._squeezed = {name: s.index("batch") for name, s in fed.items() if lacks_batch(nodes[name], s)}
        self._constants = {name: _filled(nodes[name], value) for name, value in manifest.constants.items()}
        self._counts = {name: nodes[name].dtype for name in (manifest.lengths, manifest.memory_lengths) if name}
        self.layout = StateLayout(manifest.carried)
        self._memory_changes = self._finite and any(state.ragged and state.output for state in self._states)
        self._drawn_from, self._recent = manifest.drawn_from, manifest.recent

    def run(
        self,
        sequences: Sequence[Array],
        states: Sequence[bytes | None],
        others: Sequence[Sequence[Array]] = (),
    ) -> list[Made]:
        """Run rows together; return what was made of each.

        A new session has the state None. `others` holds for each row what it gives to the inputs beside the sequence.
        Where the manifest lets all values pass, none is looked at.

        Shapes: sequences [time] or [time, features]; others [time, *sizes] or [*sizes]; outputs [time, *sizes], or
        [*sizes] where the graph's output has no time and an input has; an axis `memory` stands before the sizes.

        Raises: StateInvalid for a state that is not finite; ManifestError for a tensor of another shape than declared;
        what ONNX Runtime raises.
        """
        if self._one_row and len(sequences) > 1:
            rows = zip(sequences, states, others or [()] * len(sequences), strict=True)
            return [*chain(*(self.run([steps], [state], [beside]) for steps, state, beside in rows))]
        lengths = [len(steps) for steps in sequences]
        if self._sequence.has_time or max(lengths) == 1:
            outputs, final, memories = self._at_once(sequences, lengths, states, others)
        else:
            outputs, final, memories = self._step_by_step(sequences, lengths, states)
        if self._drawn_from is not None:
            final[self._drawn_from.input] = self._last(outputs, lengths)
        if self._recent is not None:
            final[self._recent.input] = self._last_ids(self._recent, sequences, states)
        packed, size = final.tobytes(), self.layout.size
        after = [packed[index * size : (index + 1) * size] for index in range(len(lengths))]
        if self.layout.entry_size:
            after = [*map(bytes.__add__, after, memories)]
        made = [self._cut(outputs, index, length, after[index]) for index, length in enumerate(lengths)]
        finite = [not self._memory_changes or self._is_finite(self.layout.memory(state)) for state in after]
        fixed = [final[state.input] for state in self._states if not state.ragged]
        if self._finite and not all(np.isfinite(rows).all() for rows in (*outputs, *fixed)):
            finite = [
                finite[index]
                and all(np.isfinite(v).all() for v in (*made[index].values(), *(rows[index] for rows in fixed)))
                for index in range(len(lengths))
            ]
        return [*map(Made, made, after, finite)]

    def _is_finite(self, memory: Array) -> bool:
        return all(np.isfinite(memory[name]).all() for name in memory.dtype.names or ())

    def _cut(self, outputs: Sequence[Array], index: int, length: int, state: bytes) -> dict[str, Array]:
        """Return the outputs of a row without what pads them; `state` is the row's."""
        made: dict[str, Array] = {}
        for tensor, rows, by_time in zip(self._manifest.outputs, outputs, self._by_time, strict=True):
            values = rows[index, :length] if by_time else rows[index, ...]
            if tensor.has_memory:
                entries = self.layout.entries(state)
                values = values[:, :entries] if by_time else values[:entries]
            made[tensor.name] = values
        return made

    def _last(self, outputs: Sequence[Array], lengths: list[int]) -> Array:
        """Return what the last step of each row made, to draw the next id from. Shapes: [rows, ids]."""
        names = [tensor.name for tensor in self._manifest.outputs]
        assert self._drawn_from is not None
        steps = outputs[names.index(self._drawn_from.input)]
        made: Array = steps[np.arange(len(lengths)), np.array(lengths) - 1]
        return made

    def _last_ids(self, recent: State, sequences: Sequence[Array], states: Sequence[bytes | None]) -> Array:
        """Return the last ids of each session, which stand at the end of its state. Shapes: [rows, ids]."""
        (count,) = recent.row_shape
        fixed = slice(self.layout.size - recent.row_bytes, self.layout.size)
        ends = b"".join([(state or self.layout.new)[fixed] for state in states])
        before = np.frombuffer(ends, self.layout.dtype[recent.input].base).reshape(-1, count)
        if all(len(steps) == 1 for steps in sequences):
            return np.concatenate([before[:, 1:], np.concatenate(sequences).reshape(-1, 1)], axis=1)
        rows = zip(before, sequences, strict=True)
        return np.stack([np.concatenate([old, steps.ravel()])[-count:] for old, steps in rows])

    def _at_once(
        self,
        sequences: Sequence[Array],
        lengths: list[int],
        states: Sequence[bytes | None],
        others: Sequence[Sequence[Array]],
    ) -> tuple[list[Array], Array, list[bytes]]:
        """Run the graph once: over whole rows, or over rows of one step where it has no time axis.

        Returns the outputs, rows first, and the states as `RowStates.pack` does.
        """
        steps, timed = padded(sequences, lengths), self._sequence.has_time
        given = {**self._constants, **self._beside(others, lengths)} if others else self._constants
        carried = RowStates(self._states, self.layout, states)
        outputs = self._pass(steps if timed else steps[:, 0], lengths, carried, given)
        if not timed:
            outputs = [rows[:, None] for rows in outputs]
        return outputs, *carried.pack()

    def _beside(self, others: Sequence[Sequence[Array]], lengths: list[int]) -> dict[str, Array]:
        """Return what the rows give to the inputs beside the sequence, as the graph takes it."""
        feeds: dict[str, Array] = {}
        for tensor, rows in zip(self._manifest.others, zip(*others, strict=True), strict=True):
            arrays = [np.asarray(row, array_dtype(tensor.dtype)) for row in rows]  # a single text is no array yet
            together = padded(arrays, lengths) if tensor.has_time else np.stack(arrays)
            feeds[tensor.name] = np.ascontiguousarray(together.transpose(tensor.graph_order))
        return feeds

    def _step_by_step(
        self, sequences: Sequence[Array], lengths: list[int], states: Sequence[bytes | None]
    ) -> tuple[list[Array], Array, list[bytes]]:
        """Run a graph without a time axis once for each step; a row takes part until its last step."""
        places = np.argsort([-length for length in lengths], kind="stable")  # so that the rows that go on come first
        steps = padded([sequences[place] for place in places], lengths)
        carried = RowStates(self._states, self.layout, [states[place] for place in places])
        shapes = [(*((carried.longest,) if t.has_memory else ()), *t.sizes) for t in self._manifest.outputs]
        outputs = [
            np.zeros((*steps.shape[:2], *shape), t.dtype)
            for shape, t in zip(shapes, self._manifest.outputs, strict=True)
        ]
        final, memories, done = np.empty(len(lengths), self.layout.dtype), [b""] * len(lengths), 0
        for end in sorted(set(lengths)):
            running = sum(length >= end for length in lengths)
            carried.keep_first(running)
            for step in range(done, end):
                made = self._pass(steps[:running, step], [1] * running, carried, self._constants)
                for rows, values in zip(outputs, made, strict=True):
                    rows[:running, step] = values
            final[:running], memories[:running] = carried.pack()
            done = end
        back = np.argsort(places)
        return [rows[back] for rows in outputs], final[back], [memories[place] for place in back]

    def _pass(self, steps: Array, lengths: list[int], carried: RowStates, given: Mapping[str, Array]) -> list[Array]:
        """Run the graph once, with what it is `given` beside, from the states that are `carried` on; return its
        outputs, rows first.

        Shapes: steps [batch, time, ...], or [batch, ...] for a graph without a time axis.
        """
        shaped = steps.reshape(*steps.shape[: self._leading], *self._sequence.sizes)
        feeds = {self._sequence.name: np.ascontiguousarray(shaped.transpose(self._sequence.graph_order)), **given}
        for name, dtype in self._counts.items():
            feeds[name] = np.array(lengths if name == self._manifest.lengths else carried.entries, dtype)
        feeds |= carried.tensors
        for name, axis in self._squeezed.items():
            feeds[name] = feeds[name].squeeze(axis)
        tensors = self._session.run(self._names, feeds)
        if self._one_row:
            tensors = [_with_batch(tensor, shape) for tensor, (_, _, shape) in zip(tensors, self._made, strict=True)]
        self._check_shapes(tensors, len(steps), max(lengths), carried.longest)
        carried.take(dict(zip(self._names, tensors, strict=True)))
        outputs = self._manifest.outputs
        return [tensor.transpose(declared.row_order) for declared, tensor in zip(outputs, tensors, strict=False)]

    def _check_shapes(self, tensors: list[Array], rows: int, steps: int, entries: int) -> None:
        axes: dict[int | str, int] = {"batch": rows, "time": steps, "memory": entries}
        for (field, name, shape), tensor in zip(self._made, tensors, strict=True):
            if tensor.shape != tuple([axes.get(axis, axis) for axis in shape]):
                message = f"{name} is declared {list(shape)}, but with a batch of {rows} it is {list(tensor.shape)}"
                raise ManifestError(self._file, field, message)


def _with_batch(tensor: Array, shape: Shape) -> Array:
    return np.expand_dims(tensor, shape.index("batch")) if tensor.ndim == len(shape) - 1 else tensor


def _filled(node: Node, value: Constant) -> Array:
    return np.full([size for size in node.shape if isinstance(size, int)], value, node.dtype)
