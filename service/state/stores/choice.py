"""The store that the settings choose."""

from __future__ import annotations

from collections.abc import Callable

from service.metrics import Metrics
from service.settings import EMBEDDED, MEMORY, Settings
from service.state.stores.embedded import EmbeddedStore
from service.state.stores.memory import MemoryStore
from service.state.stores.redis import RedisStore
from service.state.stores.store import Store


def open_store(settings: Settings, metrics: Metrics, clock: Callable[[], float]) -> Store | None:
    """Return the store that the settings ask for; None where nothing can be held.

    Raises: SettingsError when it cannot be used as configured.
    """
    if not settings.largest_held_state:
        return None
    ttl_s, max_bytes = settings.state_ttl_s, settings.store_bytes
    if settings.store == MEMORY:
        return MemoryStore(max_bytes=max_bytes, ttl_s=ttl_s, metrics=metrics, clock=clock)
    if settings.store == EMBEDDED:
        return EmbeddedStore(settings.state_dir, max_bytes=max_bytes, ttl_s=ttl_s, metrics=metrics, clock=clock)
    return RedisStore(settings.store, ttl_s=ttl_s, metrics=metrics)
