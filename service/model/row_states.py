"""The states of the rows of a run: from bytes to the tensors that a graph takes, and back.

It knows states and their layout, not graphs. Ragged states are padded with zeros to the longest of the run. Invariant:
what the graph only reads comes back as it was, and nothing that pads a state comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from service.contract.tensors import State
from service.errors import StateInvalid
from service.model.layout import StateLayout
from service.model.onnx_session import Array


class RowStates:
    """The states of so many rows; `tensors` are what the graph takes, by the names of its inputs.

    `entries` says how many each row's ragged states have, and `longest` how many they have in `tensors`.
    """

    def __init__(self, states: Sequence[State], layout: StateLayout, given: Sequence[bytes | None]) -> None:
        """Take the rows' states; None is what a session begins with. Raises: StateInvalid where one is not finite."""
        self._states, self._layout = states, layout
        before, size = [state or layout.new for state in given], layout.size
        memory: list[Array] = []
        self._memories, self.entries = [b""] * len(before), [0] * len(before)
        if layout.entry_size:
            memory = [layout.memory(state) for state in before]
            self._memories, self.entries = [state[size:] for state in before], [*map(len, memory)]
            before = [state[:size] for state in before]
        self._fixed = np.frombuffer(b"".join(before), layout.dtype, len(before))
        self.longest = max(self.entries)  # to which all are padded
        self.tensors: dict[str, Array] = {}
        for state in states:
            name = state.input
            values = padded([one[name] for one in memory], self.entries) if state.ragged else self._fixed[name]
            if not np.isfinite(values).all():
                raise StateInvalid(reason="not_finite")
            self.tensors[name] = values.transpose(state.graph_order).astype(state.dtype, "C")

    def take(self, made: Mapping[str, Array]) -> None:
        """Take what the graph made of the states that it hands on, by the names of its outputs."""
        self.tensors |= {state.input: made[state.output] for state in self._states if state.output is not None}

    def keep_first(self, rows: int) -> None:
        """Drop all rows but the first."""
        self._fixed, self._memories, self.entries = self._fixed[:rows], self._memories[:rows], self.entries[:rows]
        for state in self._states:
            by_row = self.tensors[state.input].transpose(state.row_order)[:rows]
            self.tensors[state.input] = np.ascontiguousarray(by_row.transpose(state.graph_order))

    def pack(self) -> tuple[Array, list[bytes]]:
        """Return the rows' states: what is of fixed size as the layout has it, and the bytes that follow it."""
        fixed = np.empty(len(self.entries), self._layout.dtype)
        ragged: dict[str, Array] = {}
        for state in self._states:
            values = self.tensors[state.input].transpose(state.row_order)
            if not state.ragged:
                fixed[state.input] = values
            elif state.output is not None:
                ragged[state.input] = values
        if ragged:
            self._memories = [self._memory(index, ragged) for index in range(len(self.entries))]
        return fixed, self._memories

    def _memory(self, index: int, ragged: Mapping[str, Array]) -> bytes:
        entries = self.entries[index]
        memory = np.frombuffer(self._memories[index], self._layout.entry).copy()
        for name, values in ragged.items():
            memory[name] = values[index, :entries]
        return memory.tobytes()


def padded(sequences: Sequence[Array], lengths: Sequence[int]) -> Array:
    """Return sequences of these lengths as one array, zeros behind the shorter ones. Shapes: [rows, longest, ...]."""
    shape = (len(sequences), max(lengths), *sequences[0].shape[1:])
    if min(lengths) == max(lengths):
        return np.concatenate(sequences).reshape(shape)
    longest = np.zeros(shape, sequences[0].dtype)
    if longest.dtype.hasobject:
        longest.fill("")
    for place, steps in zip(longest, sequences, strict=True):
        place[: len(steps)] = steps
    return longest
