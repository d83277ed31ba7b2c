"""What a session must give: the model from its file, one session at a time, without the service.

It knows ONNX Runtime and the manifest's JSON, not batches and not tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
CLOSE = 1e-4  # relative to a value's size, and absolute near 0: batches and chunks change sums in their order


@dataclass(frozen=True)
class State:
    """The states of one session after some steps, by the names of the graph's inputs."""

    arrays: dict[str, Array]


class Oracle:
    """A model whose steps are numbers or rows of numbers, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._manifest = json.loads((directory / "manifest.json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = directory / self._manifest["file"]
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        given = {node.name: node.type for node in self._session.get_inputs()}
        constants = self._manifest.get("constants", {})
        self._constants = {name: np.array(value, DTYPES[given[name]]) for name, value in constants.items()}
        self._lengths_type = DTYPES[given[self._manifest["lengths"]]]
        self.name: str = self._manifest["name"]
        (self._sequence,) = self._manifest["inputs"]
        self.features: int | None = self._sequence["shape"][2] if len(self._sequence["shape"]) > 2 else None

    def begin(self) -> State:
        return State({state["input"]: _first(state) for state in self._manifest["states"]})

    def advance(self, state: State, values: Array) -> tuple[dict[str, Array], State]:
        """Return the outputs of each step, and the state after them. Shapes: values [steps] or [steps, features]."""
        sequence = np.asarray(values, self._sequence["dtype"])[None]
        lengths = np.array([len(values)], self._lengths_type)
        feeds = {
            self._sequence["name"]: sequence,
            self._manifest["lengths"]: lengths,
            **self._constants,
            **state.arrays,
        }
        names = [output["name"] for output in self._manifest["outputs"]]
        carried = [state["output"] for state in self._manifest["states"]]
        found = dict(zip([*names, *carried], self._session.run([*names, *carried], feeds), strict=True))
        after = {state["input"]: found[state["output"]] for state in self._manifest["states"]}
        return {name: found[name][0] for name in names}, State(after)


def differs(given: Array, expected: Array) -> bool:
    """Return whether an output is not what was expected, up to rounding."""
    return given.shape != expected.shape or not np.allclose(given, expected, rtol=CLOSE, atol=CLOSE)


def _first(state: dict[str, Any]) -> Array:
    shape = [1 if size == "batch" else size for size in state["shape"]]
    return np.full(shape, state.get("start", 0), state["dtype"])
