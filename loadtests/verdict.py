"""The end of a load test: what was answered, failed and refused, and which thresholds that breaches.

It knows locust's statistics, not how they came about, and imports locust for its types alone. Invariant: a refusal is
counted in a line of its own, and is neither an answer nor a failure.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing locust patches the standard library
    from locust.stats import RequestStats

METHOD = "POST"
REFUSALS = ("overloaded", "deadline")


def refused_as(path: str, code: str) -> str:
    """Return the name under which locust counts the refusals of `path`."""
    return f"{path} {code}"


@dataclass
class Sessions:
    """What happened to the sessions of the stream users."""

    begun: int = 0
    lost: int = 0
    steps: int = 0
    retries: int = 0

    def __str__(self) -> str:
        return (
            f"sessions: {self.begun} begun, {self.lost} lost; {self.steps} steps taken, {self.retries} retries compared"
        )


@dataclass(frozen=True)
class Line:
    """The requests of one kind of user."""

    kind: str
    answered: int
    failed: int
    refused: dict[str, int]
    p95_ms: float

    @classmethod
    def of(cls, kind: str, path: str, stats: RequestStats) -> Line:
        entry = stats.get(path, METHOD)
        refused = {code: stats.get(refused_as(path, code), METHOD).num_requests for code in REFUSALS}
        answered = entry.num_requests - entry.num_failures
        return cls(kind, answered, entry.num_failures, refused, entry.get_response_time_percentile(0.95))

    def breaches(self, limits: Namespace) -> list[str]:
        """Return a sentence for each threshold that is not kept."""
        refused = sum(self.refused.values())
        sent = max(1, self.answered + self.failed + refused)
        max_ms = getattr(limits, f"{self.kind}_p95_ms")
        checks = (
            (self.failed / sent <= limits.max_failures, f"{self.failed} of {sent} requests failed (--max-failures)"),
            (refused / sent <= limits.max_refused, f"{refused} of {sent} requests were refused (--max-refused)"),
            (self.p95_ms <= max_ms, f"p95 {self.p95_ms:g} ms, at most {max_ms:g} wanted (--{self.kind}-p95-ms)"),
            (
                self.answered >= limits.min_requests,
                f"{self.answered} requests answered, {limits.min_requests:g} wanted (--min-requests)",
            ),
        )
        return [f"{self.kind}: {breach}" for kept, breach in checks if not kept]

    def __str__(self) -> str:
        refused = "".join(f", {count} {code}" for code, count in self.refused.items())
        return f"{self.kind}: {self.answered} answered, {self.failed} failed{refused}; p95 {self.p95_ms:g} ms"


def verdict(lines: Sequence[Line], sessions: Sessions, broken: int, limits: Namespace) -> list[str]:
    """Return every breach of a run; `broken` counts exceptions of the load test itself."""
    breaches = [breach for line in lines for breach in line.breaches(limits)]
    refused = sum(sum(line.refused.values()) for line in lines)
    if refused < limits.min_refused:
        breaches.append(f"all: {refused} requests refused, {limits.min_refused:g} wanted: more --users (--min-refused)")
    if sessions.lost:
        breaches.append(f"stream: {sessions.lost} sessions lost")
    if broken:
        breaches.append(f"the load test itself failed {broken} times; locust's exceptions say where")
    return breaches
