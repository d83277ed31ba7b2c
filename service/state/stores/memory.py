"""Snapshots in this process alone: gone with it, and unknown to other workers.

It knows names and bytes, and the time from an injected clock. Invariant: it holds no more than it was allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from service.errors import BatchTooLarge
from service.metrics import Metrics
from service.settings import ENTRY_BYTES
from service.state.stores.store import name_of


class MemoryStore:
    """Snapshots in this process, at most `max_bytes` of them; the least recently used give way, and the old ones.

    One is old `ttl_s` after it was last saved or loaded, when no token can name it any more.
    """

    def __init__(self, *, max_bytes: int, ttl_s: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._max_bytes, self._ttl_s, self._clock = max_bytes, ttl_s, clock
        self._held: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()  # by name, the longest unused first
        self._bytes = 0
        self._snapshots_gauge, self._bytes_gauge = metrics.held_states, metrics.held_bytes
        self._evictions = {reason: metrics.evictions.labels(reason) for reason in ("age", "space")}

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        size = sum(len(state) + ENTRY_BYTES for state in states)
        if size > self._max_bytes:
            message = f"the states of the request take {size} bytes in the store; send fewer items"
            raise BatchTooLarge(message, limit=self._max_bytes)
        names = [name_of(state) for state in states]
        now = self._clock()
        for name, state in zip(names, states, strict=True):
            if self._held.pop(name, None) is None:
                self._bytes += len(state) + ENTRY_BYTES
            self._held[name] = (state, now)
        self._evict(now)
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        now = self._clock()
        self._evict(now)
        found: list[bytes | None] = []
        for name in names:
            state, _ = self._held.pop(name, (None, now))
            if state is not None:
                self._held[name] = (state, now)
            found.append(state)
        return found

    async def close(self) -> None:
        self._held.clear()

    def _evict(self, now: float) -> None:
        while self._held:
            name, (state, used) = next(iter(self._held.items()))
            if used + self._ttl_s <= now:
                self._evictions["age"].inc()
            elif self._bytes > self._max_bytes:
                self._evictions["space"].inc()
            else:
                break
            del self._held[name]
            self._bytes -= len(state) + ENTRY_BYTES
        self._snapshots_gauge.set(len(self._held))
        self._bytes_gauge.set(self._bytes)
