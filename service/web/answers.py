"""What goes out: an endpoint's reply as bytes, with the headers that tell its timing.

It knows bytes and headers, not models. Invariant: each part of an answer is dumped once, straight to bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from pydantic_core import to_json

from service.batching.submission import Timing
from service.web.turns import in_turns

JSON = b"application/json"
FEW_RESULTS = 16  # that are dumped at once
Headers = list[tuple[bytes, bytes]]


class WholeAnswer(Response):
    """An answer that is bytes already; starlette's own would build these few headers for several times the cost."""

    def __init__(self, body: bytes, status: int, headers: Headers, content_type: bytes = JSON) -> None:
        self.status_code, self.body, self.background = status, body, None
        self.raw_headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]


@dataclass(slots=True)
class Reply:
    """An endpoint's answer, before it is bytes."""

    content: dict[str, Any]
    status: int
    timing: Timing
    total_s: float

    async def answer(self) -> WholeAnswer:
        headers = [server_timing(self.timing, self.total_s)]
        if "error" in self.content:
            headers += retry_after(self.content["error"])
        return WholeAnswer(await dump(self.content), self.status, headers)


async def dump(content: dict[str, Any]) -> bytes:
    """Return `content` as JSON; many results one by one, between which other requests have their turn."""
    results = content.get("results", ())
    if len(results) <= FEW_RESULTS:
        return _json(content)
    dumped = [_json(result) async for result in in_turns(results)]
    members = [
        _json(name) + b":" + (b"[" + b",".join(dumped) + b"]" if name == "results" else _json(part))
        for name, part in content.items()
    ]
    return b"{" + b",".join(members) + b"}"


def _json(part: Any) -> bytes:
    return to_json(part, bytes_mode="base64")


def server_timing(timing: Timing, total_s: float) -> tuple[bytes, bytes]:
    """Return the header that tells where the time of an answer went."""
    padding = timing.padded_cells / timing.cells if timing.cells else 1.0
    told = (
        f"queue;dur={1e3 * timing.queue_s:.3f}, run;dur={1e3 * timing.run_s:.3f}, "
        f'total;dur={1e3 * total_s:.3f}, rows;desc="{timing.rows}", batch;desc="{timing.batch_rows}", '
        f'padding;desc="{padding:.3f}"'
    )
    return b"server-timing", told.encode()


def retry_after(error: dict[str, Any]) -> Headers:
    """Return the header that tells a client when to come again, where the error says so."""
    if "retry_after_ms" not in error:
        return []
    return [(b"retry-after", b"%d" % math.ceil(error["retry_after_ms"] / 1000))]
