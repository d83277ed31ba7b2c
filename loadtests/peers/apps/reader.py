"""The graph of texts in ONNX Runtime as every peer runs it: rows of ids in, probabilities out.

It knows neither HTTP nor batching. `PEER_GRAPH` names the graph, `PEER_THREADS` the threads of a run, `PEER_WORKERS`
how many processes or instances a peer has, each with a reader of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

Array = np.ndarray[Any, Any]
GRAPH, THREADS, WORKERS = "PEER_GRAPH", "PEER_THREADS", "PEER_WORKERS"


def workers() -> int:
    return int(os.environ[WORKERS])


class Reader:
    """A session over the graph."""

    def __init__(self, graph: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    @classmethod
    def of_environment(cls) -> Reader:
        return cls(Path(os.environ[GRAPH]), int(os.environ[THREADS]))

    def read(self, rows: Sequence[Sequence[int]]) -> Array:
        """Return the probabilities [rows, labels]; rows may differ in length."""
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), lengths.max()), np.int32)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        return self.run(ids, lengths)

    def run(self, ids: Array, lengths: Array) -> Array:
        """Return the probabilities of rows that are padded already. Shapes: ids [rows, time], lengths [rows]."""
        probabilities: Array = self._session.run(["scores"], {"ids": ids, "lengths": lengths})[0]
        return probabilities
