"""LitServe: an API whose `predict` gets batches; started with the port."""

from __future__ import annotations

import sys
from typing import Any

import litserve

from loadtests.peers.apps.reader import Reader, workers


class Texts(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.reader = Reader.of_environment()

    def decode_request(self, request: dict[str, list[int]]) -> list[int]:
        return request["ids"]

    def batch(self, inputs: list[list[int]]) -> list[list[int]]:
        return inputs

    def predict(self, x: list[list[int]]) -> Any:
        return self.reader.read(x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, list[float]]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    texts = Texts(max_batch_size=64, batch_timeout=0.003)
    server = litserve.LitServer(texts, accelerator="cpu", workers_per_device=workers())
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, generate_client_file=False
    )
