"""Snapshots and records in Redis, or what speaks its protocol.

It knows names and bytes; how much is kept, and for how long beyond the time to live, is Redis' business. Invariants: a
value that is not what was saved is refused, nothing waits longer than `REDIS_TIMEOUT_S`, and no swap is sent twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import Any, TypeVar

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.settings import ENTRY_BYTES
from service.state.stores.store import (
    MARK_BYTES,
    OPERATIONS,
    RETRY_MS,
    Record,
    name_of,
    record_of,
    taken_bytes,
    value_of,
    verified,
)

log = logging.getLogger("baton.store")

T = TypeVar("T")

SNAPSHOT_PREFIX = "baton:state:"
RECORD_PREFIX = "baton:record:"
SHARE_PREFIX = "baton:share:"
# What a tenant holds: in `uses` its keys by the time of their last save in us, in `sizes` their sizes, and their sum.
# Redis may have evicted either; then both are forgotten. From ARGV[first] on come keys and sizes, 0 for what is gone.
NOTE = """
local function forget(uses, sizes, key)
  redis.call("ZREM", uses, key)
  local size = redis.call("HGET", sizes, key)
  if not size then return end
  redis.call("HINCRBY", sizes, "", -size)
  redis.call("HDEL", sizes, key)
end
local function note(uses, sizes, most, ttl_ms, first)
  if redis.call("ZCARD", uses) ~= math.max(redis.call("HLEN", sizes) - 1, 0) then redis.call("DEL", uses, sizes) end
  local time = redis.call("TIME")
  local now = time[1] * 1000000 + time[2]
  for _, key in ipairs(redis.call("ZRANGEBYSCORE", uses, "-inf", now - 1000 * ttl_ms)) do forget(uses, sizes, key) end
  for i = first, #ARGV, 2 do
    forget(uses, sizes, ARGV[i])
    if ARGV[i + 1] ~= "0" then
      redis.call("ZADD", uses, now + i, ARGV[i])
      redis.call("HSET", sizes, ARGV[i], ARGV[i + 1])
      redis.call("HINCRBY", sizes, "", ARGV[i + 1])
    end
  end
  while tonumber(redis.call("HGET", sizes, "") or 0) > tonumber(most) do
    local oldest = redis.call("ZRANGE", uses, 0, 0)[1]
    if not oldest then break end
    redis.call("DEL", oldest)
    forget(uses, sizes, oldest)
  end
  redis.call("PEXPIRE", uses, ttl_ms)
  redis.call("PEXPIRE", sizes, ttl_ms)
end
"""
SAVED = f"""{NOTE}
note(KEYS[1], KEYS[2], ARGV[1], ARGV[2], 3)
return 1
"""
SWAP = f"""{NOTE}
if redis.call("GETRANGE", KEYS[1], 0, {MARK_BYTES - 1}) ~= ARGV[1] then return 0 end
if ARGV[2] == "" then redis.call("DEL", KEYS[1]) else redis.call("SET", KEYS[1], ARGV[2], "PX", ARGV[3]) end
if KEYS[2] then note(KEYS[2], KEYS[3], ARGV[4], ARGV[3], 5) end
return 1
"""
UNCHANGED = "nothing has changed, send the same again"
UNKNOWN = "whether it has kept the step cannot be known, begin the sequence anew"
REDIS_CONNECTIONS = 32
REDIS_TIMEOUT_S = 2.0  # of one bulk load or save, connecting included


class RedisStore:
    """Snapshots and records in Redis, or what speaks its protocol: shared by replicas, expired and evicted as Redis is
    told to.

    Nothing connects before the first use, and nothing waits longer than `REDIS_TIMEOUT_S`.
    """

    def __init__(self, url: str, *, ttl_s: int, metrics: Metrics) -> None:
        """Raises: SettingsError when the package is missing or the URL is none."""
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import ConnectionError, RedisError, ResponseError
        except ImportError as failure:
            message = "BATON_STORE names a Redis, which needs the package redis: pip install 'baton-serving[redis]'"
            raise SettingsError(message) from failure

        try:
            self._pool: Any = BlockingConnectionPool.from_url(
                url,
                max_connections=REDIS_CONNECTIONS,
                timeout=REDIS_TIMEOUT_S,
                socket_timeout=REDIS_TIMEOUT_S,
                socket_connect_timeout=REDIS_TIMEOUT_S,
                retry=Retry(NoBackoff(), retries=1, supported_errors=(ConnectionError,)),
            )
            self._pool.make_connection()  # type: ignore[no-untyped-call]  # so that an unknown option is refused now
        except (ValueError, TypeError) as failure:  # its message may quote the URL, and with it a password
            raise SettingsError("BATON_STORE is no URL such as redis://host:6379/0") from failure
        self._redis = Redis.from_pool(self._pool)
        # The last two: what answers may be no Redis, and then the parser raises whatever it stumbles on.
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError, ValueError, TypeError)
        self._refusal = ResponseError  # by a Redis that is full, say
        self._ttl_ms = 1000 * ttl_s
        self._failed = {name: metrics.store_failures.labels(name) for name in OPERATIONS}
        self._tenant, self._max_bytes = "", 0

    def share(self, tenant: str, max_bytes: int) -> RedisStore:
        """Return what a tenant has of this store, over the same connections: names of its own, `max_bytes` at most."""
        share = copy(self)
        share._tenant, share._max_bytes = f"{tenant}:", max_bytes
        return share

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        if self._tenant:
            taken_bytes(states, self._max_bytes)
        names = [name_of(state) for state in states]
        pipeline = self._redis.pipeline(transaction=False)
        for name, state in zip(names, states, strict=True):
            pipeline.set(self._key(name), state, px=self._ttl_ms)
        if self._tenant:
            sizes = [len(state) + ENTRY_BYTES for state in states]
            pairs: Iterator[Any] = chain.from_iterable(zip([self._key(name) for name in names], sizes, strict=True))
            pipeline.eval(SAVED, 2, *self._share, self._max_bytes, self._ttl_ms, *pairs)
        await self._bounded(_saved(pipeline), "save")
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        values = await self._bounded(_loaded(self._redis, [self._key(name) for name in names]), "load")
        return [verified(name, value) for name, value in zip(names, values, strict=True)]

    async def read(self, key: bytes) -> Record:
        (value,) = await self._bounded(_loaded(self._redis, [self._record_key(key)]), "load")
        return record_of(key, value)

    async def swap(self, key: bytes, before: bytes, content: bytes | None) -> bool:
        """As `Store.swap`; what is not sent, for want of a connection, has changed nothing."""
        value = value_of(key, content)
        if self._tenant:
            taken_bytes([value], self._max_bytes)
        by_s = asyncio.get_running_loop().time() + REDIS_TIMEOUT_S
        connection = await self._bounded(self._pool.get_connection(), "save", by_s=by_s)
        try:
            swap = _swapped(connection, *self._swap_call(self._record_key(key), before, value))
            return await self._bounded(swap, "save", by_s=by_s, repeatable=False)
        finally:
            await self._pool.release(connection)

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, name: bytes) -> str:
        return f"{SNAPSHOT_PREFIX}{self._tenant}{name.hex()}"

    def _record_key(self, key: bytes) -> str:
        return f"{RECORD_PREFIX}{self._tenant}{key.hex()}"

    @property
    def _share(self) -> list[str]:
        """The keys under which stands what the tenant holds."""
        return [f"{SHARE_PREFIX}{self._tenant}{kind}" for kind in ("uses", "sizes")] if self._tenant else []

    def _swap_call(self, key: str, before: bytes, value: bytes | None) -> tuple[Any, ...]:
        """Return what follows the script in the call that swaps."""
        share = self._share
        size = 0 if value is None else len(value) + ENTRY_BYTES
        noted = (self._max_bytes, key, size) if share else ()
        return (1 + len(share), key, *share, before, value or b"", self._ttl_ms, *noted)

    async def _bounded(
        self, work: Awaitable[T], operation: str, *, by_s: float | None = None, repeatable: bool = True
    ) -> T:
        """Return what `work` returns before the loop's clock is `by_s`, or within `REDIS_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S) if by_s is None else asyncio.timeout_at(by_s):
                return await work
        except self._failures as failure:
            self._failed[operation].inc()
            log.warning("the state store failed to %s: %s: %s", operation, type(failure).__name__, failure)
            known = repeatable or isinstance(failure, self._refusal)
            outcome, retry_after_ms = (UNCHANGED, RETRY_MS) if known else (UNKNOWN, None)
            message = f"the store of held states does not answer; {outcome}"
            raise StoreUnavailable(message, retry_after_ms=retry_after_ms) from failure


async def _saved(pipeline: Any) -> None:
    """Raises: ValueError when what answers does not do so as Redis would."""
    answers = await pipeline.execute()
    if not all(answer in (True, 1) for answer in answers):
        raise ValueError(f"SET was answered by {answers!r:.80}")


async def _loaded(redis: Any, keys: Sequence[str]) -> list[Any]:
    """Raises: ValueError when what answers does not do so as Redis would."""
    values = await redis.mget(keys)
    if not isinstance(values, list) or len(values) != len(keys):
        raise ValueError(f"MGET of {len(keys)} keys was answered by {values!r:.80}")
    if not all(value is None or isinstance(value, bytes) for value in values):
        raise ValueError(f"MGET was answered by what is not bytes: {values!r:.80}")
    return values


async def _swapped(connection: Any, *call: Any) -> bool:
    """Send the swap once: a client of the library would send it again on a connection that broke.

    Raises: ValueError when what answers does not do so as Redis would.
    """
    await connection.send_command("EVAL", SWAP, *call)
    answer = await connection.read_response()
    if answer not in (0, 1):
        raise ValueError(f"the script that swaps was answered by {answer!r:.80}")
    return bool(answer)
