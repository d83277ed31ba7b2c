"""How many streams of this process are open: in all, of each tenant, and of clients that have not shown a key yet.

It knows counts, not connections. Invariant: who has shown no key takes no more than a part of the room, for whoever
reaches the address can open a connection.
"""

from __future__ import annotations

from collections import Counter

from service.errors import Overloaded, QuotaExceeded, Unavailable
from service.settings import Settings

UNKNOWN_SHARE = 8  # clients without a key may have this part of the streams open
RETRY_MS = 1000
Tenant = str | None  # None where it is not known yet


class Seats:
    """The streams that may be open, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._most, self._of_a_tenant = settings.max_streams, settings.tenant_streams
        self._of_unknown = max(1, self._most // UNKNOWN_SHARE)
        self._taken = Counter[Tenant]()

    def take(self, tenant: Tenant) -> None:
        """Raises: Overloaded, QuotaExceeded."""
        if self._taken.total() >= self._most:
            raise Overloaded(f"{self._most} streams are open already", limit=self._most, retry_after_ms=RETRY_MS)
        limit = self._of_unknown if tenant is None else self._of_a_tenant
        if limit is not None and self._taken[tenant] >= limit:
            whose = "of clients that have shown no key yet" if tenant is None else "of this tenant"
            kind = Overloaded if tenant is None else QuotaExceeded
            raise kind(f"{limit} streams {whose} are open already", limit=limit, retry_after_ms=RETRY_MS)
        self._taken[tenant] += 1

    def change(self, before: Tenant, tenant: Tenant) -> None:
        """Let a client have another's seat for its own. Raises: Overloaded, QuotaExceeded, with nothing changed."""
        self.leave(before)
        try:
            self.take(tenant)
        except Unavailable:
            self._taken[before] += 1
            raise

    def leave(self, tenant: Tenant) -> None:
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
