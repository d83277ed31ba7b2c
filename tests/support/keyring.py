"""API keys for the tests, and the settings with which a service knows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from service.web.api_keys import make_key


class Keyring:
    """A key of each tenant, and with `admin` one of an admin; `keyring["acme"]` is that of acme."""

    def __init__(self, *tenants: str, admin: bool = False) -> None:
        self._keys: dict[str | None, str] = {}
        self.entries: list[dict[str, Any]] = []
        for tenant in (*tenants, *([None] if admin else [])):
            entry, self._keys[tenant] = make_key("test", datetime.now(UTC), tenant=tenant, days=None)
            self.entries.append(entry.model_dump(mode="json"))

    def __getitem__(self, tenant: str) -> str:
        return self._keys[tenant]

    @property
    def admin(self) -> str:
        return self._keys[None]

    @property
    def setting(self) -> str:
        """The value of BATON_API_KEYS."""
        return json.dumps(self.entries)

    def header(self, tenant: str | None = None) -> dict[str, str]:
        """Return the header with the key of a tenant, of the admin where none is named."""
        return {"authorization": f"Bearer {self._keys[tenant]}"}
