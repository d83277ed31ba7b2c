"""Ray Serve: a deployment whose replicas gather calls into batches; started with the port."""

from __future__ import annotations

import signal
import sys

import ray
from ray import serve
from starlette.requests import Request

from loadtests.peers.apps.reader import Reader, workers


@serve.deployment(max_ongoing_requests=1000, num_replicas=workers())
class Texts:
    def __init__(self) -> None:
        self.reader = Reader.of_environment()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.003)
    async def read(self, rows: list[list[int]]) -> list[list[float]]:
        return self.reader.read(rows).tolist()

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        return {"probabilities": await self.read((await request.json())["ids"])}


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Texts.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
