"""What came of chunks, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_EXAMPLES = 3


@dataclass(frozen=True)
class Scored:
    """What came of a chunk of the file `place`: its rows, its share of all input, the groups that begin in it, how many
    of its items failed, and the first that did.

    Where its part was `there` already, nothing was scored.
    """

    place: str
    rows: int
    share: float
    groups: Sequence[str]
    failed: int = 0
    example: str | None = None
    there: bool = False


@dataclass
class Tally:
    """What came of a job so far: rows that were scored, or whose part was there; `failed` items; a few of those."""

    rows: int = 0
    there: int = 0
    failed: int = 0
    share: float = 0.0
    examples: list[str] = field(default_factory=list)

    def count(self, scored: Scored) -> None:
        if scored.there:
            self.there += scored.rows
        else:
            self.rows += scored.rows
        self.share += scored.share
        self.failed += scored.failed
        if scored.example is not None and len(self.examples) < MOST_EXAMPLES:
            self.examples.append(scored.example)
