"""Triton through PyTriton: its core forms batches of one shape, for a Python function; started with three ports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from loadtests.peers.apps.reader import Array, Reader, workers


def reader_of_rows() -> Callable[..., Any]:
    """Return the function of one instance."""
    reader = Reader.of_environment()

    @batch
    def read(ids: Array, lengths: Array) -> dict[str, Array]:
        return {"probabilities": reader.run(ids, lengths[:, 0])}

    return read


if __name__ == "__main__":
    http, grpc, metrics = map(int, sys.argv[1:])
    with Triton(config=TritonConfig(http_port=http, grpc_port=grpc, metrics_port=metrics)) as triton:
        triton.bind(
            model_name="texts",
            infer_func=[reader_of_rows() for _ in range(workers())],
            inputs=[
                Tensor(name="ids", dtype=np.int32, shape=(-1,)),
                Tensor(name="lengths", dtype=np.int32, shape=(1,)),
            ],
            outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(2,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
        )
        triton.serve()
