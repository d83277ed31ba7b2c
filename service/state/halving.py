"""States at half their size: float32 tensors as float16, float64 and whole numbers as they are.

It knows the tensors of a state, not tokens. Invariant: what is halved is finite; a value that float16 cannot hold is
refused, never made infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.errors import PrecisionTooLow
from service.tensors import State

MOST = float(np.finfo(np.float16).max)


class Halving:
    """The way between the states of one model and their halves; `size` is the bytes of a halved state."""

    def __init__(self, states: Sequence[State]) -> None:
        self._names = [state.input for state in states]
        self._exact = np.dtype([(s.input, np.dtype(s.dtype).newbyteorder("<"), s.row_shape) for s in states])
        halves = {"float32": np.dtype("<f2")}
        self._halved = np.dtype(
            [(s.input, halves.get(s.dtype, self._exact[s.input].base), s.row_shape) for s in states]
        )
        self.size: int = self._halved.itemsize

    def halve(self, state: bytes) -> bytes:
        """Raises: PrecisionTooLow naming the tensor that holds a value beyond float16."""
        exact = np.frombuffer(state, self._exact)
        halved = np.empty(1, self._halved)
        for name in self._names:
            with np.errstate(over="ignore"):
                halved[name] = exact[name]
            if not np.isfinite(halved[name]).all():
                value = np.abs(exact[name]).max()
                message = f'state {name!r} holds {value:g}, beyond float16 ({MOST:g}); ask for "precision": "f32"'
                raise PrecisionTooLow(message, field="state", limit=MOST)
        return halved.tobytes()

    def restore(self, halved: bytes) -> bytes:
        """Return the state that `halved` stands for, each tensor of its own type again."""
        given = np.frombuffer(halved, self._halved)
        exact = np.empty(1, self._exact)
        for name in self._names:
            exact[name] = given[name]
        return exact.tobytes()
