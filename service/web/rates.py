"""How often a tenant may call, counted by the library `limits`.

It knows tenants and rates, not what is called. Where the store of states is a Redis, all replicas count there, and each
for itself while that does not answer, which the log tells; else each worker counts for itself.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

from limits import parse_many
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from service.errors import RateLimited
from service.metrics import Metrics
from service.settings import REDIS_SCHEMES, Settings

log = logging.getLogger("baton.rates")

PREFIX = "baton:rate"
REDIS_TIMEOUT_S = 1.0
ALONE_S = 5.0  # for so long a worker counts for itself once Redis did not answer
RETRY_MS = 1000
LEAST_S = 0.05  # between two tries of who waits


class TenantRates:
    """The rates that hold for each tenant; a sliding window approximated by two counters, of any number of calls."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._rates = sorted(parse_many(settings.rate_limit))
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared = _shared(settings.store) if settings.store.startswith(REDIS_SCHEMES) else None
        self._turns: dict[str, asyncio.Lock] = {}
        self._alone_until = -math.inf  # by time.monotonic
        self._alone = metrics.rates_alone

    async def take(self, tenant: str) -> None:
        """Count a call. Raises: RateLimited when it is one too many."""
        if self._shared is not None and time.monotonic() > self._alone_until:
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    return await self._count(self._shared, tenant)
            except RateLimited:
                raise
            except Exception as failure:  # noqa: BLE001 - of whatever kind: what is in the way of counting stops no calls
                self._alone.inc()
                self._alone_until = time.monotonic() + ALONE_S
                log.warning("calls are counted by this worker alone: %s: %s", type(failure).__name__, failure)
        return await self._count(self._own, tenant)

    async def wait(self, tenant: str, *, timeout_s: float) -> None:
        """Count a call, once it may be. Raises: RateLimited when that is not within `timeout_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        turn = self._turns.setdefault(tenant, asyncio.Lock())  # or all who wait would ask again and again
        try:
            async with asyncio.timeout_at(until), turn:
                while True:
                    try:
                        return await self.take(tenant)
                    except RateLimited as refusal:
                        wait_s = (refusal.retry_after_ms or 0) / 1000
                        if loop.time() + wait_s > until:
                            raise
                        await asyncio.sleep(wait_s)
        except TimeoutError:
            message = f"no room came within {timeout_s:g} s for a further call of the tenant"
            raise RateLimited(message, retry_after_ms=RETRY_MS) from None

    async def _count(self, limiter: SlidingWindowCounterRateLimiter, tenant: str) -> None:
        for rate in self._rates:
            if not await limiter.hit(rate, tenant):
                free_at, _ = await limiter.get_window_stats(rate, tenant)
                wait_s = max(LEAST_S, free_at - time.time())
                message = f"a tenant may make {rate} calls here; try again later, or make fewer and larger calls"
                raise RateLimited(message, limit=rate.amount, retry_after_ms=math.ceil(1000 * wait_s))


def _shared(store: str) -> SlidingWindowCounterRateLimiter:
    """Return what counts in the Redis of that URL."""
    url = store.replace("unix://", "redis+unix://", 1)
    return SlidingWindowCounterRateLimiter(
        RedisStorage(f"async+{url}", implementation="redispy", key_prefix=PREFIX, wrap_exceptions=True)
    )
