"""The outputs of an uninterrupted run, which those of streams are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from conftest import Server

from baton_client import Client, StepOutput

CLOSE = 1e-5  # batching and chunking change float32 sums only in their order
ROWS = np.random.default_rng(5).normal(size=(300, 2)).astype(np.float32)


def whole(server: Server, rows: np.ndarray = ROWS) -> np.ndarray:
    assert server.url is not None
    with Client(server.url) as client:
        return client.step("stepper", rows, returns="all").outputs["y"]


def assert_each_once(found: Sequence[StepOutput], expected: np.ndarray) -> None:
    """Hold that the outputs are those of one step each, none lost, none doubled."""
    assert [output.step for output in found] == list(range(1, len(expected) + 1))
    np.testing.assert_allclose([output.outputs["y"] for output in found], expected, atol=CLOSE)


def urls(*servers: Server) -> list[str]:
    return [server.url for server in servers if server.url is not None]
