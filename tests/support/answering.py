"""A service that answers with what a test wrote down, events among it, and notes what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from handlers import QuietHandler, handled_by

EVENTS = [{"index": 0, "choice": 0, "text": text} for text in "abc"]
LAST = {"summary": {"ok": 1, "failed": 0}, "usage": {}, "timing_ms": {}}
Answer = tuple[int, str, bytes]


def told(*events: object) -> Answer:
    """An answer of events."""
    return (
        200,
        "text/event-stream",
        b"".join(b"data: %b\n\n" % json.dumps(event, ensure_ascii=False).encode() for event in events),
    )


def refused(status: int, code: str) -> Answer:
    error = {"code": code, "message": "not now", "retry_after_ms": 1}
    return status, "application/json", json.dumps({"error": error}).encode()


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A service that gives these answers, one after the other, and what it was asked."""
    left, asked = list(answers), list[bytes]()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["content-length"])))
            status, kind, content = left.pop(0)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(content)

    with handled_by(Handler) as url:
        yield url, asked
