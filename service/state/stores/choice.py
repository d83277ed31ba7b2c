"""The stores that the settings choose: one for all tenants, or for each its own, which no other can fill."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.settings import EMBEDDED, MEMORY, Settings
from service.state.stores.embedded import EmbeddedStore
from service.state.stores.memory import MemoryStore
from service.state.stores.redis import RedisStore
from service.state.stores.store import RETRY_MS, Store, Stores

log = logging.getLogger("baton.store")

TENANTS = "tenants"  # the folder of their folders
TENANT_BYTES = 16


class SharedStore:
    """One store for all tenants."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, tenant: str) -> Store:
        return self._store

    async def close(self) -> None:
        await self._store.close()


class TenantStores:
    """A store for each tenant, which `open_one` opens for a digest of its name when it is first asked for."""

    def __init__(self, open_one: Callable[[str], Store]) -> None:
        self._open_one, self._stores = open_one, dict[str, asyncio.Future[Store]]()

    async def of(self, tenant: str) -> Store:
        opening = self._stores.get(tenant)
        if opening is None:  # a file may have to be mended first, so not on the event loop
            opening = asyncio.ensure_future(asyncio.to_thread(self._open_one, _digest(tenant)))
            self._stores[tenant] = opening
        if opening.done() and opening.exception() is None:
            return opening.result()
        try:
            return await asyncio.shield(opening)
        except Exception as failure:
            self._stores.pop(tenant, None)  # so that the next call tries again
            if not isinstance(failure, SettingsError):
                raise
            log.warning("the store of a tenant cannot be opened: %s", failure)
            message = "the store of held states cannot be used now; nothing has changed, send the same again"
            raise StoreUnavailable(message, retry_after_ms=RETRY_MS) from failure

    async def close(self) -> None:
        for opened in await asyncio.gather(*self._stores.values(), return_exceptions=True):
            if not isinstance(opened, BaseException):
                await opened.close()


def open_stores(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Stores | None:
    """Return the stores that the settings ask for; None where nothing can be held.

    Raises: SettingsError when they cannot be used as configured.
    """
    if not settings.largest_held_state:
        return None
    ttl_s, max_bytes, apart = settings.state_ttl_s, settings.held_bytes, settings.tenant_held_bytes is not None
    if settings.store == MEMORY:

        def in_memory(_: str = "") -> Store:
            return MemoryStore(max_bytes=max_bytes, ttl_s=ttl_s, metrics=metrics, clock=clock)

        return TenantStores(in_memory) if apart else SharedStore(in_memory())
    if settings.store == EMBEDDED:

        def in_file(tenant: str = "") -> Store:
            folder = settings.state_dir / TENANTS / tenant if tenant else settings.state_dir
            return EmbeddedStore(folder, max_bytes=max_bytes, ttl_s=ttl_s, metrics=metrics, clock=clock)

        return TenantStores(in_file) if apart else SharedStore(in_file())
    redis = RedisStore(settings.store, ttl_s=ttl_s, metrics=metrics)
    return TenantStores(lambda tenant: redis.share(tenant, max_bytes)) if apart else SharedStore(redis)


def _digest(tenant: str) -> str:
    """Return a name for a tenant that any file system takes."""
    return hashlib.blake2b(tenant.encode(), digest_size=TENANT_BYTES, person=b"baton tenant").hexdigest()
