"""Snapshots of states that the server holds: in this process's memory, or in Redis for all replicas.

A snapshot is named by its content (truncated SHA-256), so it never changes, saving it again makes no second one, and a
value that is not what was saved is noticed. It knows names and bytes, not sessions or models. Invariant: what loads
under a name is exactly what was saved under it, or nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from service.errors import BatchTooLarge, SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.settings import ENTRY_BYTES, MEMORY, Settings

log = logging.getLogger("baton.store")

T = TypeVar("T")

NAME_BYTES = 16
REDIS_PREFIX = "baton:state:"
REDIS_CONNECTIONS = 32
REDIS_TIMEOUT_S = 2.0  # of one bulk load or save, connecting included
RETRY_MS = 1000


class Store(Protocol):
    """Where snapshots are; one is kept for the state's time to live, unless there is no room for it."""

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        """Keep each state and return its name.

        Raises: StoreUnavailable; BatchTooLarge when there is no room for all of them at once.
        """

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return the state of each name, None where it is gone. Raises: StoreUnavailable."""

    async def close(self) -> None:
        """Let go of connections."""


def open_store(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Store | None:
    """Return the store that the settings ask for; None where nothing can be held.

    Raises: SettingsError when it is Redis and cannot be used as configured.
    """
    if not settings.largest_held_state:
        return None
    if settings.store == MEMORY:
        return MemoryStore(max_bytes=settings.store_bytes, ttl_s=settings.state_ttl_s, metrics=metrics, clock=clock)
    return RedisStore(settings.store, ttl_s=settings.state_ttl_s, metrics=metrics)


def _name_of(state: bytes) -> bytes:
    return hashlib.sha256(state).digest()[:NAME_BYTES]


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
        names = [_name_of(state) for state in states]
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


class RedisStore:
    """Snapshots in Redis, or what speaks its protocol: shared by replicas, expired and evicted as Redis is told to.

    Nothing connects before the first use, and nothing waits longer than `REDIS_TIMEOUT_S`.
    """

    def __init__(self, url: str, *, ttl_s: int, metrics: Metrics) -> None:
        """Raises: SettingsError when the package is missing or the URL is none."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError, RedisError
        except ImportError as failure:
            message = "BATON_STORE names a Redis, which needs the package redis: pip install 'baton-serving[redis]'"
            raise SettingsError(message) from failure
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=REDIS_CONNECTIONS,
                timeout=REDIS_TIMEOUT_S,
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
            )
            pool.make_connection()  # type: ignore[no-untyped-call]  # so that an unknown option is refused now
        except (ValueError, TypeError) as failure:  # its message may quote the URL, and with it a password
            raise SettingsError("BATON_STORE is no URL such as redis://host:6379/0") from failure
        self._redis = Redis.from_pool(pool)
        # The last two: what answers may be no Redis, and then the parser raises whatever it stumbles on.
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, ValueError, TypeError)
        self._ttl_ms, self._metrics = 1000 * ttl_s, metrics

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        names = [_name_of(state) for state in states]
        pipeline = self._redis.pipeline(transaction=False)
        for name, state in zip(names, states, strict=True):
            pipeline.set(_key(name), state, px=self._ttl_ms)
        await self._bounded(_saved(pipeline), "save")
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        values = await self._bounded(_loaded(self._redis, names), "load")
        return [_verified(name, value) for name, value in zip(names, values, strict=True)]

    async def close(self) -> None:
        await self._redis.aclose()

    async def _bounded(self, work: Awaitable[T], operation: str) -> T:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await work
        except self._failures as failure:
            self._metrics.store_failures.labels(operation).inc()
            log.warning("the state store failed to %s: %s: %s", operation, type(failure).__name__, failure)
            message = "the store of held states does not answer; the state that you have stays good, send it again"
            raise StoreUnavailable(message, field="state", retry_after_ms=RETRY_MS) from failure


def _key(name: bytes) -> str:
    return f"{REDIS_PREFIX}{name.hex()}"


async def _saved(pipeline: Any) -> None:
    """Raises: ValueError when what answers does not do so as Redis would."""
    answers = await pipeline.execute()
    if not all(answer is True for answer in answers):
        raise ValueError(f"SET was answered by {answers!r:.80}")


async def _loaded(redis: Any, names: Sequence[bytes]) -> list[Any]:
    """Raises: ValueError when what answers does not do so as Redis would."""
    values = await redis.mget([_key(name) for name in names])
    if not isinstance(values, list) or len(values) != len(names):
        raise ValueError(f"MGET of {len(names)} keys was answered by {values!r:.80}")
    return values


def _verified(name: bytes, value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bytes) and _name_of(value) == name:
        return value
    log.error("the value of %s in the state store is not what was saved; it is refused", _key(name))
    return None
