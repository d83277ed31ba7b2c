"""ONNX Runtime: devices, sessions, and the check of a graph against its manifest.

The only importer of onnxruntime. It knows tensors and names, not requests, rows or tokens. Invariant: a `Session` that
exists has every input, output and state that its manifest declares, with the declared types and shapes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract import MANIFEST_FILE, Manifest
from service.errors import DeviceUnavailable, ManifestError

# Since 1.29 ONNX Runtime reports its use over the network, unless this is set when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

log = logging.getLogger("baton.runtime")

Array = np.ndarray[Any, np.dtype[Any]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GRAPH_TYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(int64)": "int64"}
_TYPES = ", ".join(GRAPH_TYPES.values())
VERSION: str = ort.__version__


@cache
def choose_providers(device: str) -> list[str]:
    """Return the execution providers for `device` (auto, cpu or cuda), the preferred first.

    Raises: DeviceUnavailable when cuda is asked for and this build of ONNX Runtime has no CUDA provider.
    """
    if device == "cpu":
        return [CPU]
    there = ort.get_available_providers()
    if CUDA in there:
        return [CUDA, CPU]
    if device == "cuda":
        raise DeviceUnavailable(
            f"device 'cuda' needs {CUDA}, but this ONNX Runtime has {', '.join(there)}; "
            "install onnxruntime-gpu in place of onnxruntime (docs/deployment.md), or set BATON_DEVICE to cpu or auto"
        )
    log.info("device auto: no %s here (there are %s), so models run on the CPU", CUDA, ", ".join(there))
    return [CPU]


class Session:
    """One loaded graph. `run` may be called from several threads; it releases the GIL."""

    def __init__(self, file: Path, manifest: Manifest, *, device: str, intra_op_threads: int) -> None:
        """Load `file` and check it against `manifest`.

        Raises: ManifestError naming file and field; DeviceUnavailable when `device` is cuda and cannot be had.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra_op_threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # patterns are kept per input shape, and ours never repeat
        options.log_severity_level = 4  # what fails raises, and is logged once, by who catches it
        providers = choose_providers(device)
        try:
            self._session = ort.InferenceSession(file, options, providers=providers)
        except Exception as failure:  # onnxruntime raises its own classes, most of them plain RuntimeErrors
            raise ManifestError(file, "file", f"ONNX Runtime cannot load it: {failure}") from failure
        self.device = "cuda" if CUDA in self._session.get_providers() else "cpu"
        if CUDA in providers and self.device == "cpu":
            message = f"{CUDA} is installed but did not start (driver or CUDA libraries missing)"
            if device == "cuda":
                raise DeviceUnavailable(f"{message}; ONNX Runtime has {', '.join(ort.get_available_providers())}")
            log.warning("device auto: %s, so %s runs on the CPU", message, manifest.name)
        _check_graph(self._session, file.parent / MANIFEST_FILE, manifest)
        nodes = {node.name: node for node in self._session.get_inputs()}
        self._constants = {
            name: np.full(nodes[name].shape, value, GRAPH_TYPES[nodes[name].type])
            for name, value in manifest.constants.items()
        }

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph once and return the outputs called `names`, in that order."""
        outputs: list[Array] = self._session.run(names, {**feeds, **self._constants})
        return outputs


def cast(values: object, dtype: npt.DTypeLike) -> Array:
    """Return finite numbers as an array of `dtype`; what it cannot hold becomes infinite, for the engine to refuse."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype)


def _check_graph(session: ort.InferenceSession, file: Path, manifest: Manifest) -> None:
    given = {node.name: node for node in session.get_inputs()}
    made = {node.name: node for node in session.get_outputs()}
    inputs = [("inputs[0]", tensor.name, tensor.dtype, tensor.shape) for tensor in manifest.inputs]
    if manifest.lengths:
        inputs.append(("lengths", manifest.lengths, "int32", ("batch",)))
    outputs = [(f"outputs[{i}]", t.name, t.dtype, t.shape) for i, t in enumerate(manifest.outputs)]
    for i, state in enumerate(manifest.states):
        inputs.append((f"states[{i}].input", state.input, state.dtype, state.shape))
        outputs.append((f"states[{i}].output", state.output, state.dtype, state.shape))
    for kind, declared, found in (("input", inputs, given), ("output", outputs, made)):
        for field, name, dtype, shape in declared:
            if name not in found:
                raise ManifestError(file, field, f"the graph has no {kind} {name!r}; it has {', '.join(found)}")
            _check_tensor(file, field, found[name], dtype, shape)
    for name in manifest.constants:
        if name not in given:
            raise ManifestError(file, f"constants.{name}", f"the graph has no such input; it has {', '.join(given)}")
        node = given[name]
        fixed = all(isinstance(size, int) for size in node.shape)
        if node.type not in GRAPH_TYPES or not fixed:
            message = f"the graph has {node.type} {list(node.shape)}; a constant is {_TYPES} of fixed shape"
            raise ManifestError(file, f"constants.{name}", message)
    unfed = set(given) - {name for _, name, _, _ in inputs} - set(manifest.constants)
    if unfed:
        raise ManifestError(file, "inputs", f"the graph also needs {', '.join(sorted(unfed))}; declare them")


def _check_tensor(file: Path, field: str, node: ort.NodeArg, dtype: str, shape: Sequence[int | str]) -> None:
    found = GRAPH_TYPES.get(node.type, node.type)
    if found != dtype:
        raise ManifestError(file, field, f"{node.name} is declared {dtype}, but the graph has {found}")
    fits = len(node.shape) == len(shape) and all(
        size == axis if isinstance(size, int) else True for size, axis in zip(node.shape, shape, strict=True)
    )
    if not fits:
        raise ManifestError(file, field, f"{node.name} is declared {list(shape)}, but the graph has {list(node.shape)}")
