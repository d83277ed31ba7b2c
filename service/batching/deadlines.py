"""The deadlines of what is under way, kept by one timer: a timer for each would cost more than the rest.

It knows times and asyncio, not rows. All of it happens on the event loop; it is not thread-safe. Invariant: an item
that still waits when its deadline passes expires once, and no other item does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """What has a deadline, which counts only while it waits; it never begins to wait again."""

    @property
    def deadline(self) -> float: ...
    @property
    def waits(self) -> bool: ...


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Items under way, in `open`; `expire` is called with each that is late, and must discard it.

    Units: deadlines are in the seconds of `clock`.
    """

    def __init__(self, expire: Callable[[T], None], *, clock: Callable[[], float]) -> None:
        self._expire, self._clock = expire, clock
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = math.inf  # when the timer does
        self.open: set[T] = set()

    def add(self, item: T) -> None:
        self.open.add(item)
        if item.deadline < self._looks_at:
            self._look_at(item.deadline)

    def discard(self, item: T) -> None:
        self.open.discard(item)

    def stop(self) -> None:
        """Keep no deadline from here on."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, deadline: float) -> None:
        self.stop()
        self._looks_at = deadline
        self._timer = asyncio.get_running_loop().call_later(deadline - self._clock(), self._look)

    def _look(self) -> None:
        now, self._looks_at = self._clock(), math.inf
        waiting = [item for item in self.open if item.waits]
        if later := [item.deadline for item in waiting if item.deadline > now]:
            self._look_at(min(later))
        for item in waiting:
            if item.deadline <= now:
                self._expire(item)
