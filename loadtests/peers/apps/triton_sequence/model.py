"""Triton's Python backend: steps of an LSTM 2x256, all states of this process in one array, one run for each batch.

Sequence flags are read from the request, which is cheaper than control tensors; `PEER_GRAPH` names the graph.
Invariant: a sequence that this process has no state of gets an error.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as backend

STATES = ("h0", "c0", "h1", "c1")
HIDDEN, SEQUENCES = 256, 1024
START, END = backend.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, backend.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False
        self._session = ort.InferenceSession(os.environ["PEER_GRAPH"], options, providers=["CPUExecutionProvider"])
        self._states = np.zeros((len(STATES), SEQUENCES, HIDDEN), np.float32)
        self._places: dict[int, int] = {}
        self._free = list(range(SEQUENCES))

    def execute(self, requests: list[Any]) -> list[Any]:
        known = [request for request in requests if self._find_place(request)]
        outputs = iter(self._step(known))
        responses = []
        for request in requests:
            if request.correlation_id() in self._places:
                responses.append(backend.InferenceResponse([backend.Tensor("y", next(outputs))]))
            else:
                error = backend.TritonError(f"no state of sequence {request.correlation_id()}")
                responses.append(backend.InferenceResponse(error=error))
        for request in known:
            if request.flags() & END:
                self._free.append(self._places.pop(request.correlation_id()))
        return responses

    def _find_place(self, request: Any) -> bool:
        """Give a sequence that starts zeros; return whether there is a state to go on from."""
        sequence = request.correlation_id()
        if request.flags() & START:
            if sequence not in self._places:
                self._places[sequence] = self._free.pop()
            self._states[:, self._places[sequence]] = 0
        return sequence in self._places

    def _step(self, requests: list[Any]) -> np.ndarray[Any, Any]:
        if not requests:
            return np.empty(0)
        places = [self._places[request.correlation_id()] for request in requests]
        x = np.concatenate([backend.get_input_tensor_by_name(request, "x").as_numpy() for request in requests])
        feeds = dict(zip(STATES, self._states[:, None, places], strict=True))
        feeds |= {"x": x[:, None], "lengths": np.ones(len(requests), np.int32)}
        output, *states = self._session.run(["y", *(f"{name}_out" for name in STATES)], feeds)
        self._states[:, places] = np.concatenate(states)
        return output
