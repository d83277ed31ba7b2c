"""The bytes of a session's state: all its tensors, little-endian, in manifest order.

It knows the tensors of a state, not tokens and not graphs. A state can also be cut to float16: float32 tensors become
float16, float64 and whole numbers stay as they are. Invariant: a value that float16 cannot hold is refused, never made
infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.contract.tensors import State
from service.errors import PrecisionTooLow
from service.model.onnx_session import Array

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


class StateLayout:
    """The place of each tensor in the bytes of a model's state. Units: size and float16_size in bytes.

    `dtype` is one state as a numpy structure, each tensor by the name of its input and of its `State.row_shape`; `new`
    is the state that a session begins with.
    """

    def __init__(self, states: Sequence[State]) -> None:
        exact = {state.input: np.dtype(state.dtype).newbyteorder("<") for state in states}
        smaller = {"float32": np.dtype("<f2")}
        self._names = list(exact)
        self.dtype = np.dtype([(s.input, exact[s.input], s.row_shape) for s in states])
        self._float16 = np.dtype([(s.input, smaller.get(s.dtype, exact[s.input]), s.row_shape) for s in states])
        self.size: int = self.dtype.itemsize
        self.float16_size: int = self._float16.itemsize
        new = np.empty((), self.dtype)
        for state in states:
            new[state.input] = np.array(state.start, state.dtype)
        self.new: bytes = new.tobytes()

    def unpack(self, state: bytes) -> dict[str, Array]:
        """Return the tensors of `state` by the names of their inputs, each of its `State.row_shape`."""
        return {name: np.frombuffer(state, self.dtype)[name][0] for name in self._names}

    def to_float16(self, state: bytes) -> bytes:
        """Return `state` cut to float16.

        Raises: PrecisionTooLow naming the tensor that holds a value beyond float16.
        """
        exact = np.frombuffer(state, self.dtype)
        cut = np.empty(1, self._float16)
        for name in self._names:
            with np.errstate(over="ignore"):
                cut[name] = exact[name]
            if not np.isfinite(cut[name]).all():
                value = np.abs(exact[name]).max()
                message = f"state {name!r} holds {value:g}, beyond float16 ({LARGEST_FLOAT16:g})"
                raise PrecisionTooLow(
                    f'{message}; ask for "precision": "float32"', field="state", limit=LARGEST_FLOAT16
                )
        return cut.tobytes()

    def from_float16(self, cut: bytes) -> bytes:
        """Return the state of which `cut` is the float16 form, each tensor of its own dtype again."""
        given = np.frombuffer(cut, self._float16)
        exact = np.empty(1, self.dtype)
        for name in self._names:
            exact[name] = given[name]
        return exact.tobytes()
