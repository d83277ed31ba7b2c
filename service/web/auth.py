"""Who is calling: an API key names a tenant, and tenants cannot open each other's state tokens.

The admin key opens the paths below `ADMIN_PATHS`, and nothing else; an API key opens all others.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from service.errors import Unauthorized

OPEN_TENANT = ""
ADMIN_PATHS = "/v2/repository/models/"


class Authenticator:
    """Turns an `Authorization` header into a tenant; without configured keys everyone is the open tenant."""

    def __init__(self, api_keys: Mapping[str, SecretStr], admin_key: SecretStr | None) -> None:
        self._keys = {tenant: key.get_secret_value().encode() for tenant, key in api_keys.items()}
        self._admin_key = None if admin_key is None else admin_key.get_secret_value().encode()

    def asks_for_admin(self, path: str) -> bool:
        return self._admin_key is not None and path.startswith(ADMIN_PATHS)

    def check_admin(self, authorization: str | None) -> None:
        """Raises: Unauthorized when the header does not hold the admin key."""
        if self._admin_key is None or not hmac.compare_digest(_bearer(authorization), self._admin_key):
            raise Unauthorized('this call asks for a header "Authorization: Bearer <BATON_ADMIN_KEY>"')

    def tenant(self, authorization: str | None) -> str:
        """Raises: Unauthorized when keys are configured and the header holds none of them."""
        if not self._keys:
            return OPEN_TENANT
        given = _bearer(authorization)
        for tenant, key in self._keys.items():
            if hmac.compare_digest(given, key):
                return tenant
        raise Unauthorized('this service asks for a header "Authorization: Bearer <API key>" with a known key')


def _bearer(authorization: str | None) -> bytes:
    """Return the key that a header holds; nothing, which is no key, where it holds none."""
    scheme, _, given = (authorization or "").partition(" ")
    return given.strip().encode() if scheme.lower() == "bearer" else b""
