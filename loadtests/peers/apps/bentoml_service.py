"""BentoML: a service whose API gathers calls into batches."""

from __future__ import annotations

import bentoml

from loadtests.peers.apps.reader import Reader, workers


@bentoml.service(workers=workers(), traffic={"timeout": 30, "max_concurrency": 1000})
class Texts:
    def __init__(self) -> None:
        self.reader = Reader.of_environment()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def read(self, ids: list[list[int]]) -> list[list[float]]:
        return self.reader.read(ids).tolist()
