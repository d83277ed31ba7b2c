"""Who is calling: an API key names a tenant, and tenants cannot open each other's state tokens."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from pydantic import SecretStr

from service.errors import Unauthorized

OPEN_TENANT = ""


class Authenticator:
    """Turns an `Authorization` header into a tenant; without configured keys everyone is the open tenant."""

    def __init__(self, api_keys: Mapping[str, SecretStr]) -> None:
        self._keys = {tenant: key.get_secret_value().encode() for tenant, key in api_keys.items()}

    def tenant(self, authorization: str | None) -> str:
        """Raises: Unauthorized when keys are configured and the header holds none of them."""
        if not self._keys:
            return OPEN_TENANT
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            for tenant, key in self._keys.items():
                if hmac.compare_digest(given.strip().encode(), key):
                    return tenant
        raise Unauthorized('this service asks for a header "Authorization: Bearer <API key>" with a known key')
