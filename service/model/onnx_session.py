"""ONNX Runtime: devices, and sessions that run any graph.

This is the only module that imports onnxruntime. It knows tensors and names, not manifests, requests, rows or tokens.
Invariant: an `OnnxSession` that exists holds a graph that ONNX Runtime took.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import numpy.typing as npt

from service.contract.tensors import TensorDtype
from service.errors import DeviceUnavailable, ManifestError

# Since 1.29 ONNX Runtime reports its use over the network, unless this is set when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

log = logging.getLogger("baton.runtime")

Array = np.ndarray[Any, np.dtype[Any]]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# TF32 cuts the factors of products to ten bits: answers would differ from the CPU's by 1e-3.
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {CPU: {}, CUDA: {"use_tf32": "0"}}
RUNTIME_NAMES = {"float32": "float", "float64": "double"}  # where they differ from numpy's
GRAPH_TYPES = {f"tensor({RUNTIME_NAMES.get(name, name)})": name for name in get_args(TensorDtype)}
VERSION: str = ort.__version__
Optimisation = Literal["all", "extended"]  # how far ONNX Runtime rewrites a graph before runs, the furthest first
OPTIMISATIONS: tuple[Optimisation, ...] = get_args(Optimisation)
_LEVELS = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED}
# The nodes by which a graph turns to int8 as it runs, as ONNX writes a node's type: its field, its length, its name.
DYNAMIC_INT8 = re.compile(rb"\x22[\x13\x15]DynamicQuantize(?:LSTM|Linear|MatMul)")
CAUSE = re.compile(r".*Name:'(?P<node>[^']*)' Status Message: (?:/\S+ .* was false\. )?(?P<cause>.*)", re.DOTALL)


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


@dataclass(frozen=True)
class Node:
    """An input or output of a graph.

    Shapes: an axis is its size, its name, or None where the graph gives neither; dtype is as numpy names it, or as ONNX
    Runtime does for what no array can hold.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Options(TypedDict):
    """How a graph is loaded; `device` is auto, cpu or cuda."""

    device: str
    intra_op_threads: int
    optimisation: Optimisation


class OnnxSession:
    """A loaded graph; `run` may be called from several threads, and releases the GIL.

    With `dynamic_int8` the graph scales activations to int8, over all rows and steps of a run.
    """

    def __init__(self, file: Path, graph: bytes, **given: Unpack[Options]) -> None:
        """Load `graph`, read from `file`, which may end the process: `service.engine.trial` finds out in a child.

        Raises: ManifestError naming the file; DeviceUnavailable when `device` is cuda and cannot be had.
        """
        options = ort.SessionOptions()
        options.graph_optimization_level = _LEVELS[given["optimisation"]]
        options.intra_op_num_threads = given["intra_op_threads"]
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # patterns are kept for each input shape, and our shapes do not repeat
        options.log_severity_level = 4  # failures raise, and are logged once, where they are caught
        # Else weights in a file of their own, which no hash in the manifest covers, are read where the process works.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        options.enable_cpu_mem_arena = False  # it keeps the memory of the largest run, and saves no measurable time
        device = given["device"]
        providers = choose_providers(device)
        configured = [(name, PROVIDER_OPTIONS[name]) for name in providers]
        try:
            self._session = ort.InferenceSession(graph, options, providers=configured)
            if any(_names_axes_alike(argument) for argument in self._session.get_inputs()):
                options.enable_mem_reuse = False  # it takes axes of the same name for equal: runs of other sizes fail
                self._session = ort.InferenceSession(graph, options, providers=configured)
            self._session._model_bytes = None  # kept for a change of providers, which never comes
        except Exception as failure:  # onnxruntime raises its own classes, most of them plain RuntimeErrors
            outside = "external" in str(failure).lower()
            hint = "; export it with its weights inside (external_data=False)" if outside else ""
            raise ManifestError(file, "file", f"ONNX Runtime cannot load it: {failure}{hint}") from failure
        self.device = "cuda" if CUDA in self._session.get_providers() else "cpu"
        if CUDA in providers and self.device == "cpu":
            message = f"{CUDA} is installed but did not start (driver or CUDA libraries missing)"
            if device == "cuda":
                raise DeviceUnavailable(f"{message}; ONNX Runtime has {', '.join(ort.get_available_providers())}")
            log.warning("device auto: %s, so %s runs on the CPU", message, file)
        self.dynamic_int8 = DYNAMIC_INT8.search(graph) is not None
        self.inputs = [_node(argument) for argument in self._session.get_inputs()]
        self.outputs = [_node(argument) for argument in self._session.get_outputs()]

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """Run the graph once and return the outputs called `names`, in that order."""
        outputs: list[Array] = self._session.run(names, feeds)
        return outputs


def _node(argument: ort.NodeArg) -> Node:
    return Node(argument.name, GRAPH_TYPES.get(argument.type, argument.type), tuple(argument.shape))


def _names_axes_alike(argument: ort.NodeArg) -> bool:
    names = [axis for axis in argument.shape if isinstance(axis, str)]
    return len({*names}) < len(names)


def quoted(failure: BaseException) -> str:
    """Return the innermost cause that ONNX Runtime gives for a failed run, to be added to an explanation."""
    if found := CAUSE.match(str(failure)):
        place = f", at node {found['node']}" if found["node"] else ""
        return f'(ONNX Runtime: "{found["cause"].strip()}"{place})'
    return f'(ONNX Runtime: "{failure}")'


def array_dtype(dtype: str) -> np.dtype[Any]:
    """Return the dtype of the arrays that hold a tensor of `dtype`; texts are objects of str."""
    return np.dtype(object if dtype == "string" else dtype)


@np.errstate(over="ignore")
def cast(values: object, dtype: npt.DTypeLike) -> Array:
    """Return finite numbers as an array of `dtype`; numbers beyond it become infinite, and the engine refuses them."""
    return np.asarray(values, dtype)
