"""Snapshots in Redis, or what speaks its protocol.

It knows names and bytes; how much is kept, and for how long beyond the time to live, is Redis' business. Invariant: a
value that is not what was saved is refused, and nothing waits longer than `REDIS_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.state.stores.store import RETRY_MS, name_of, verified

log = logging.getLogger("baton.store")

T = TypeVar("T")

REDIS_PREFIX = "baton:state:"
REDIS_CONNECTIONS = 32
REDIS_TIMEOUT_S = 2.0  # of one bulk load or save, connecting included


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
        names = [name_of(state) for state in states]
        pipeline = self._redis.pipeline(transaction=False)
        for name, state in zip(names, states, strict=True):
            pipeline.set(_key(name), state, px=self._ttl_ms)
        await self._bounded(_saved(pipeline), "save")
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        values = await self._bounded(_loaded(self._redis, names), "load")
        return [verified(name, value) for name, value in zip(names, values, strict=True)]

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
