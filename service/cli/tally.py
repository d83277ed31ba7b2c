"""What came of the requests of a load, as their answers tell.

It knows the form of answers and errors, not how they travelled. Invariant: each request is counted once, as an answer
that was whole and good, as refused, or as an error.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import numpy as np
from pydantic_core import from_json

REFUSING = (429, 503, 504)  # no room, not now, not in time: the same request may be sent again
PARTS = ("queue", "run", "total")
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
Answer = dict[str, Any]


@dataclass
class Tally:
    """Counts, and the times of what was answered. Units: milliseconds; `service_ms` is what the answers say of it."""

    answers: int = 0
    items: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    service_ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    refusals: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, items: int, status: int, content: bytes, latency_ms: float) -> tuple[Answer | None, float]:
        """Count what came for a request of so many items.

        Return the answer if it is whole and good, else None and the milliseconds after which the service wants to be
        asked again.
        """
        try:
            answer = from_json(content)
            if failure := _failure(answer, items):
                return None, self._count_failure(failure, status)
            if status != HTTPStatus.OK:
                raise ValueError(status)
            timing = answer.get("timing_ms")
            parts = {part: float(timing[part]) for part in PARTS} if timing else {}
        except (ValueError, LookupError, TypeError, AttributeError):
            self.errors[f"status {status} with what is no answer of Baton: {content[:80]!r}"] += 1
            return None, 0.0
        self.answers += 1
        self.items += items
        self.latencies_ms.append(latency_ms)
        for part, ms in parts.items():
            self.service_ms[part].append(ms)
        return dict(answer), 0.0

    def _count_failure(self, failure: Answer, status: int) -> float:
        code = failure["code"] or f"status {status}"
        if status in REFUSING:
            self.refusals[code] += 1
            return float(failure.get("retry_after_ms", 0.0))
        self.errors[f"{code}: {failure['message']}"] += 1
        return 0.0

    def times_ms(self) -> dict[str, dict[str, float]]:
        """Return percentiles of the latency and of the service's share in it, of what was answered."""
        rows = {"latency": self.latencies_ms, **self.service_ms}
        return {name: _percentiles(values) for name, values in rows.items() if values}


def _failure(answer: Answer, items: int) -> Answer | None:
    """Return the error of an answer, or of the first of its items that has one."""
    if "results" not in answer and "error" in answer:
        error = answer["error"]
        return error if isinstance(error, dict) else {"code": "", "message": error}  # over /v2 it is a text
    if "outputs" in answer:
        return None
    results = answer["results"]
    if len(results) != items:
        return {"code": "incomplete", "message": f"{len(results)} results for {items} items"}
    return next((result["error"] for result in results if "error" in result), None)


def _percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(values, [*PERCENTILES.values()])
    return dict(zip(PERCENTILES, found.round(3).tolist(), strict=True))
