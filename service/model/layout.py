"""The bytes of a session's state: all its tensors, little-endian, in manifest order, the ragged ones at the end.

It knows the tensors of a state, not tokens and not graphs. A state can also be cut to float16: float32 tensors become
float16, float64 and whole numbers stay as they are. Invariant: a value that float16 cannot hold is refused, never made
infinite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from service.contract.tensors import State
from service.errors import PrecisionTooLow
from service.model.onnx_session import Array

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class StateLayout:
    """The place of each tensor in the bytes of a model's state: first those of fixed size, then the ragged ones.

    `dtype` is one state's fixed part as a numpy structure, each tensor by the name of its input and of its
    `State.row_shape`; `entry` the same of an entry of the ragged tensors, as many of which follow as the session's
    condition has. `new` is the fixed part that a session begins with. Units: bytes of `size` and `entry_size`.
    """

    def __init__(self, states: Sequence[State]) -> None:
        fixed, ragged = ([s for s in states if s.ragged is wanted] for wanted in (False, True))
        self.dtype, self._float16 = _structure(fixed), _structure(fixed, _SMALLER)
        self.entry, self._entry_float16 = _structure(ragged), _structure(ragged, _SMALLER)
        self.size: int = self.dtype.itemsize
        self.entry_size: int = self.entry.itemsize
        new = np.empty((), self.dtype)
        for state in fixed:
            new[state.input] = np.array(state.start, state.dtype)
        self.new: bytes = new.tobytes()

    def entries(self, state: bytes) -> int:
        """Return how many entries the ragged tensors of `state` have, 0 where it has none."""
        return max(0, len(state) - self.size) // self.entry_size if self.entry_size else 0

    def memory(self, state: bytes) -> Array:
        """Return the ragged tensors of `state`, as structures. Shapes: [entries]."""
        return np.frombuffer(state, self.entry, offset=self.size)

    def begin(self, tensors: Mapping[str, Array]) -> bytes:
        """Return the state of a new session that begins with these tensors of its own.

        Shapes: each of its `State.row_shape`, or [entries, *row_shape] where it is ragged.
        """
        fixed = np.frombuffer(self.new, self.dtype, 1).copy()
        for name in self.dtype.names or ():
            if name in tensors:
                fixed[name] = tensors[name]
        ragged = {name: tensors[name] for name in self.entry.names or ()}
        memory = np.empty(max(map(len, ragged.values()), default=0), self.entry)
        for name, values in ragged.items():
            memory[name] = values
        return fixed.tobytes() + memory.tobytes()

    def unpack(self, state: bytes) -> dict[str, Array]:
        """Return the tensors of `state` by the names of their inputs. Shapes: as those of `begin`."""
        fixed = np.frombuffer(state, self.dtype, 1)
        tensors = {name: fixed[name][0] for name in self.dtype.names or ()}
        if self.entry_size:
            memory = self.memory(state)
            tensors |= {name: memory[name] for name in self.entry.names or ()}
        return tensors

    def holds(self, size: int, *, float16: bool = False) -> bool:
        """Return whether a state, or its float16 form, can have so many bytes."""
        fixed, entry = (self._float16, self._entry_float16) if float16 else (self.dtype, self.entry)
        more = size - fixed.itemsize
        return more > 0 and more % entry.itemsize == 0 if entry.itemsize else more == 0

    def float16_size(self, state: bytes | None) -> int:
        """Return the size of the float16 form of `state`; None is one that a session begins with."""
        entries = 0 if state is None else self.entries(state)
        return self._float16.itemsize + entries * self._entry_float16.itemsize

    def to_float16(self, state: bytes) -> bytes:
        """Return `state` cut to float16.

        Raises: PrecisionTooLow naming the tensor that holds a value beyond float16.
        """
        fixed = _cut(np.frombuffer(state, self.dtype, 1), self._float16)
        return fixed + _cut(self.memory(state), self._entry_float16) if self.entry_size else fixed

    def from_float16(self, cut: bytes) -> bytes:
        """Return the state of which `cut` is the float16 form, each tensor of its own dtype again."""
        exact = np.frombuffer(cut, self._float16, 1).astype(self.dtype).tobytes()
        if not self.entry_size:
            return exact
        memory = np.frombuffer(cut, self._entry_float16, offset=self._float16.itemsize)
        return exact + memory.astype(self.entry).tobytes()


_SMALLER = {"float32": np.dtype("<f2")}


def _structure(states: Sequence[State], smaller: Mapping[str, np.dtype[Any]] = MappingProxyType({})) -> np.dtype[Any]:
    exact = {state.input: np.dtype(state.dtype).newbyteorder("<") for state in states}
    return np.dtype([(s.input, smaller.get(s.dtype, exact[s.input]), s.row_shape) for s in states])


def _cut(exact: Array, smaller: np.dtype[Any]) -> bytes:
    """Raises: PrecisionTooLow naming the tensor that holds a value beyond float16."""
    with np.errstate(over="ignore"):
        cut = exact.astype(smaller)
    for name in smaller.names or ():
        if not np.isfinite(cut[name]).all():
            value = np.abs(exact[name]).max()
            message = f"state {name!r} holds {value:g}, beyond float16 ({LARGEST_FLOAT16:g})"
            raise PrecisionTooLow(f'{message}; ask for "precision": "float32"', field="state", limit=LARGEST_FLOAT16)
    return cut.tobytes()
