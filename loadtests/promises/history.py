"""What happened: operations by kind and outcome, and whatever breaks a promise, with how it came to be.

It knows outcomes, not who causes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_KEPT = 20  # breaches that are told in full


@dataclass
class Breach:
    """An answer that differs from the oracle's, or a session that was lost; `step` is where it stood."""

    promise: str
    operation: str
    session: int
    step: int
    told: str


@dataclass
class History:
    """All that clients and nemesis did. A client gives an operation up when no replica answered it in time."""

    answered: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)
    nemeses: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    sessions: int = 0
    differing: int = 0
    lost: int = 0
    breaches: list[Breach] = field(default_factory=list)

    def differs(self, operation: str, session: int, step: int, told: str) -> None:
        self.differing += 1
        self._keep(Breach("an answer is the oracle's", operation, session, step, told))

    def loses(self, operation: str, session: int, step: int, told: str) -> None:
        self.lost += 1
        self._keep(Breach("no session is lost", operation, session, step, told))

    def failures(self, *, least_answered: int, nemeses: set[str]) -> list[str]:
        """Return why the run has failed, if it has; `nemeses` are those that had to strike."""
        found = []
        if self.differing:
            found.append(f"{self.differing} answers differ from the oracle's")
        if self.lost:
            found.append(f"{self.lost} times a session was lost")
        idle = [name for name in OPERATIONS if self.answered[name] < least_answered]
        if idle:
            found.append(f"fewer than {least_answered} operations of the kind {', '.join(idle)} were answered")
        if missing := sorted(nemeses - set(self.nemeses)):
            found.append(f"no {', '.join(missing)} has struck")
        return found

    def content(self) -> dict[str, Any]:
        counts = {name: dict(getattr(self, name)) for name in ("answered", "given_up", "nemeses")}
        return {**vars(self), **counts, "breaches": [asdict(breach) for breach in self.breaches]}

    def _keep(self, breach: Breach) -> None:
        if len(self.breaches) < MOST_KEPT:
            self.breaches.append(breach)


OPERATIONS = ("begin", "step", "fork", "rewind", "retry", "stream", "again")
