"""Snapshots and records in this process alone: gone with it, and unknown to other workers.

It knows names and bytes, and the time from an injected clock. Invariant: it holds no more than it was allowed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from service.metrics import Metrics
from service.settings import ENTRY_BYTES
from service.state.stores.store import MARK_BYTES, NO_MARK, Record, name_of, record_of, taken_bytes, value_of


class MemoryStore:
    """Snapshots and records in this process, `max_bytes` of them at most; the least recently used give way, and the
    old.

    One is old `ttl_s` after it was last saved, loaded or swapped, when no token can name it any more.
    """

    def __init__(self, *, max_bytes: int, ttl_s: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._max_bytes, self._ttl_s, self._clock = max_bytes, ttl_s, clock
        self._held: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()  # by name, the longest unused first
        self._bytes = 0
        self._metrics = metrics
        self._evictions = {reason: metrics.evictions.labels(reason) for reason in ("age", "space")}

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        taken_bytes(states, self._max_bytes)
        names = [name_of(state) for state in states]
        now = self._clock()
        for name, state in zip(names, states, strict=True):
            self._replace(name, state, now)
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

    async def read(self, key: bytes) -> Record:
        self._evict(self._clock())
        return record_of(key, self._held.get(key, (None, 0))[0])

    async def swap(self, key: bytes, before: bytes, content: bytes | None) -> bool:
        value, now = value_of(key, content), self._clock()
        taken_bytes([value], self._max_bytes)
        self._evict(now)
        fits = self._held.get(key, (NO_MARK, 0))[0][:MARK_BYTES] == before
        if fits:
            self._replace(key, value, now)
            self._evict(now)
        return fits

    async def close(self) -> None:
        self._held.clear()

    def _replace(self, name: bytes, state: bytes | None, now: float) -> None:
        if name in self._held:
            self._bytes -= len(self._held.pop(name)[0]) + ENTRY_BYTES
        if state is not None:
            self._held[name] = (state, now)
            self._bytes += len(state) + ENTRY_BYTES

    def _evict(self, now: float) -> None:
        while self._held:
            name, (_, used) = next(iter(self._held.items()))
            if used + self._ttl_s <= now:
                self._evictions["age"].inc()
            elif self._bytes > self._max_bytes:
                self._evictions["space"].inc()
            else:
                break
            self._replace(name, None, now)
        self._metrics.show_held(id(self), len(self._held), self._bytes)
