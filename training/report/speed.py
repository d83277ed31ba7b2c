"""How many rows a second a published graph answers in process, without service or HTTP around it.

It knows manifests and ONNX Runtime, not tasks. Invariant: every row of a run is as long as `row_length` says, so that
nothing is padding.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.contract.tensors import LARGEST_FLOAT

# Since 1.29 ONNX Runtime reports its use over the network, unless this is set when it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

Array = npt.NDArray[np.generic]

BATCHES = (1, 8, 64)
TOKENS = 32  # of a text, and of the condition that a session began from
RUNS = 15


def rows_per_second(directory: Path) -> tuple[int, dict[int, float]]:
    """Return the length of the rows, and rows a second at each of `BATCHES`, on as many threads as there are cores.

    Units: rows of a whole history, of 32 tokens, or of one step; the median of `RUNS` runs.
    """
    manifest = read_manifest(directory)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(directory / manifest.file, options, providers=["CPUExecutionProvider"])
    length = row_length(manifest)
    found = {}
    for batch in BATCHES:
        feeds = drawn_feeds(manifest, batch, length)
        session.run(None, feeds)
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds.append(time.perf_counter() - start)
        found[batch] = batch / statistics.median(seconds)
    return length, found


def row_length(manifest: Manifest) -> int:
    """Return the steps of a row: the longest history of a forecaster, `TOKENS` of a text, one of a stream."""
    if manifest.forecast is not None:
        return manifest.forecast.max_history
    return 1 if manifest.streamable else TOKENS


def drawn_feeds(manifest: Manifest, batch: int, length: int) -> dict[str, Array]:
    """Return a run's inputs: drawn rows, their length, the constants, and the states of new sessions."""
    rng = np.random.default_rng(0)
    sizes = {"batch": batch, "time": length}
    shape = [size if isinstance(size, int) else sizes[size] for size in manifest.sequence.shape]
    drawn = rng.normal(size=shape) if manifest.sequence.dtype in LARGEST_FLOAT else rng.integers(2, 60, shape)
    feeds: dict[str, Array] = {manifest.sequence.name: drawn.astype(manifest.sequence.dtype)}
    if manifest.lengths is not None:
        feeds[manifest.lengths] = np.full(batch, length, np.int32)
    feeds |= {name: np.array(value, np.float32) for name, value in manifest.constants.items()}
    if manifest.memory_lengths is not None:
        feeds[manifest.memory_lengths] = np.full(batch, TOKENS, np.int32)
    for state in manifest.states:
        rows = (batch, *[TOKENS] * state.ragged, *state.row_shape)
        feeds[state.input] = np.broadcast_to(np.array(state.start, state.dtype), rows).transpose(state.graph_order)
    return feeds
