"""The frames of a stream, as docs/api.md has them: from inputs to text or bytes, and from answers to outputs.

It knows neither connections nor the order of frames. Invariant: what does not have its form is refused: an input before
it is sent, an answer before it is taken for an output.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from baton_client.errors import ProtocolError
from baton_client.inputs import Array, Inputs, members, steps
from baton_client.results import StepOutput

MEMBERS = {  # what each type must hold
    "open": {"version", "step", "features", "dtype", "outputs"},
    "step": {"step", "outputs"},
    "checkpoint": {"step", "state", "asked"},
    "error": {"error", "final"},
}
CHECKPOINT = json.dumps({"checkpoint": True})
"""The request for a checkpoint."""


def read_frame(message: str | bytes) -> dict[str, Any]:
    """Return the members of a text frame. Raises: ProtocolError."""
    try:
        frame = json.loads(message)
    except ValueError:
        frame = None
    needed = MEMBERS.get(frame.get("type", "")) if isinstance(frame, dict) else None
    if needed is None or not needed <= frame.keys():
        raise ProtocolError(f"not a frame of a stream: {message[:80]!r}")
    return dict(frame)


def shown(frame: dict[str, Any]) -> str:
    """Return the beginning of a frame, for the message of an error."""
    return json.dumps(frame)[:120]


class Format:
    """How the frames of a session look, by the answer to its opening.

    `features` is the width of a step, None where that is a number or a text. `binary` frames hold numbers alone; with
    `returns_all` an answer holds the outputs of each step of its input.
    """

    def __init__(self, opened: dict[str, Any], *, binary: bool, returns_all: bool) -> None:
        self.features: int | None = opened["features"]
        self._binary, self._returns_all = binary, returns_all
        self._dtype = _little_endian(opened["dtype"])
        self._outputs = [
            (output["name"], np.dtype(output["dtype"]), tuple(output["shape"])) for output in opened["outputs"]
        ]

    def copied(self, inputs: Inputs) -> Array | str:
        """Return a copy of inputs that a frame can hold. Raises: ValueError for other inputs."""
        given = steps(inputs)
        if isinstance(given, str):
            if self._binary:
                raise ValueError("a binary stream takes numbers, not text")
            return given
        if not self._binary:
            return np.array(given)
        self._check_width(given.shape)
        return np.array(given, self._dtype)

    def _check_width(self, shape: tuple[int, ...]) -> None:
        """Raises: ValueError unless the inputs are whole steps: their bytes alone do not say so."""
        width = self.features or 1
        if shape[1:] != (width,) and not (width == len(shape) == 1):
            wanted = f"(k, {width}): k rows of {width} features" if width > 1 else "(k,) or (k, 1): k numbers"
            raise ValueError(f"inputs have shape {shape}; this model takes {wanted}")

    def write(self, inputs: Array | str) -> str | bytes:
        """Return the frame of inputs that came from `copied`."""
        if isinstance(inputs, str) or not self._binary:
            return json.dumps(members(inputs))
        return inputs.astype(self._dtype, copy=False).tobytes()

    def read_text(self, frame: dict[str, Any]) -> StepOutput:
        """Return the outputs of a frame of the type "step"."""
        types = {name: dtype for name, dtype, _ in self._outputs}
        outputs = {name: np.array(value, types[name]) for name, value in frame["outputs"].items()}
        return StepOutput(outputs, frame["step"], frame.get("tokens"))

    def read_binary(self, message: bytes, inputs: Array | str | None, before: int) -> StepOutput:
        """Return the outputs of a binary answer to `inputs`. It does not count steps: the rows of the inputs do.

        Units: before in steps, those of the session before these. Raises: ProtocolError.
        """
        if not self._binary or inputs is None or isinstance(inputs, str):
            raise ProtocolError("a binary answer to a text frame")
        sizes = [int(np.prod(shape)) for _, _, shape in self._outputs]
        rows = len(inputs) if self._returns_all else 1
        widest = _little_endian(*(dtype for _, dtype, _ in self._outputs))
        if len(message) != widest.itemsize * sum(sizes) * rows:
            raise ProtocolError(f"{len(message)} bytes answer {len(inputs)} steps of {sum(sizes)} values each")
        columns = np.split(np.frombuffer(bytearray(message), widest).reshape(rows, -1), np.cumsum(sizes)[:-1], axis=1)
        outputs = {
            name: values.astype(dtype, copy=False).reshape((rows, *shape) if self._returns_all else shape)
            for (name, dtype, shape), values in zip(self._outputs, columns, strict=True)
        }
        return StepOutput(outputs, before + len(inputs), None)


def _little_endian(*dtypes: str | np.dtype[Any]) -> np.dtype[Any]:
    """Return the widest of `dtypes`, as binary frames hold it."""
    return np.result_type(*dtypes).newbyteorder("<")
