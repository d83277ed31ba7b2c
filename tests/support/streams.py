"""What the tests of /v1/stream share: connections, frames and what they should be answered with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import websockets.sync.client
from conftest import ANSWER_LIMIT_S, LOG_LIMIT_S, Server
from websockets.exceptions import ConnectionClosed

Floats = npt.NDArray[np.float32]
CLOSE = 1e-5  # batching and chunking change float32 sums only in their order


def random_rows(seed: int, count: int, features: int = 2) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, features)).astype("<f4")


def whole(server: Server, rows: Floats, model: str = "stepper", output: str = "y") -> Floats:
    """Return the outputs of the uninterrupted run, over /v1/step."""
    body = {"model": model, "items": [{"inputs": rows.tolist()}], "return": "all"}
    (result,) = server.post("/v1/step", body).json()["results"]
    return np.array(result["outputs"][output], np.float32)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LOG_LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Stream:
    """A connection; `first` is sent as its first frame, or a model's opening is, whose answer is `opened` then."""

    def __init__(
        self,
        server: Server,
        model: str = "stepper",
        *,
        first: str | bytes | None = None,
        api_key: str | None = None,
        connecting: dict[str, Any] | None = None,
        **opening: Any,
    ) -> None:
        self._connecting = connect(server, api_key=api_key, **(connecting or {}))
        self._first, self._opening = first, json.dumps({"model": model, **opening})

    def __enter__(self) -> Stream:
        self.connection = self._connecting.__enter__()
        self.connection.send(self._opening if self._first is None else self._first)
        if self._first is None:
            self.opened = self.frame()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._connecting.__exit__(*failure)

    def send(self, **members: Any) -> None:
        self.connection.send(json.dumps(members))

    def frame(self) -> dict[str, Any]:
        received = self.connection.recv(timeout=ANSWER_LIMIT_S)
        assert isinstance(received, str)
        answer: dict[str, Any] = json.loads(received)
        return answer

    def ask(self, **members: Any) -> dict[str, Any]:
        self.send(**members)
        return self.frame()

    def send_rows(self, rows: Floats) -> None:
        self.connection.send(rows.tobytes())

    def floats(self, width: int = 3) -> Floats:
        received = self.connection.recv(timeout=ANSWER_LIMIT_S)
        assert isinstance(received, bytes), received
        return np.frombuffer(received, "<f4").reshape(-1, width)

    def step(self, rows: Floats, width: int = 3) -> Floats:
        self.send_rows(rows)
        return self.floats(width)

    def end(self) -> tuple[list[dict[str, Any]], int]:
        """Return the text frames up to the end, and the close code."""
        frames, code = self.rest()
        return [json.loads(frame) for frame in frames if isinstance(frame, str)], code

    def rest(self) -> tuple[list[str | bytes], int]:
        frames = list(self._until_closed())
        closed = self.connection.protocol.close_rcvd
        assert closed is not None
        return frames, closed.code

    def _until_closed(self) -> Iterator[str | bytes]:
        with suppress(ConnectionClosed):
            while True:
                yield self.connection.recv(timeout=ANSWER_LIMIT_S)


def connect(
    server: Server, path: str = "/v1/stream", *, api_key: str | None = None, **options: Any
) -> websockets.sync.client.connect:
    assert server.url is not None
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    url = server.url.replace("http", "ws", 1) + path
    return websockets.sync.client.connect(url, additional_headers=headers, proxy=None, max_size=None, **options)
