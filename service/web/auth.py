"""Who is calling: an API key names a tenant, and tenants cannot open each other's state tokens.

An admin key opens the paths below `ADMIN_PATHS`, and nothing else; a tenant's key opens all others. It knows keys, not
where they are kept and not where in a request they stand. Invariant: a service that has asked for keys does so until
it ends, whatever becomes of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from service.errors import Unauthorized
from service.web.api_keys import ApiKey, KnownKeys, split

OPEN_TENANT = ""
PROTOCOL = "baton"  # the subprotocol of streams, which a page names beside that with its key: one must be answered
KEY_PROTOCOL = "baton.key."  # a browser lets no page set a header
ADMIN_PATHS = "/v2/repository/models/"
ASKED = 'this service asks for a header "Authorization: Bearer <API key>" with a known key'
ADMIN_ASKED = 'this call asks for a header "Authorization: Bearer <admin key>"; `baton keys api new --admin` makes one'


class Authenticator:
    """Turns a key into its entry; without keys of tenants everyone is the open tenant, and needs none."""

    def __init__(self, keys: KnownKeys, clock: Callable[[], float] = time.time) -> None:
        self._keys, self._clock = keys, clock

    @property
    def asks(self) -> bool:
        return self._keys.asks

    def tenant_key(self, given: str) -> ApiKey | None:
        """Return the entry of a tenant's key; None where nobody is asked for any.

        Raises: Unauthorized.
        """
        return self._find(given, admin=False, asked=ASKED) if self._keys.asks else None

    def admin_key(self, given: str) -> ApiKey:
        """Return the entry of an admin's key. Raises: Unauthorized."""
        return self._find(given, admin=True, asked=ADMIN_ASKED)

    def check(self, key: ApiKey) -> None:
        """Raises: Unauthorized when the key opened once, and does no more."""
        known = self._keys.by_id.get(key.id)
        reason = "is not known any more" if known is None else known.why_not(self._clock())
        if reason is not None:
            raise Unauthorized(f"the API key {key.id} {reason}")

    def _find(self, given: str, *, admin: bool, asked: str) -> ApiKey:
        id, secret = split(given)
        key = self._keys.by_id.get(id)
        if key is None or key.admin is not admin or not key.is_of(secret):
            raise Unauthorized(asked)
        self.check(key)
        return key


def tenant_of(key: ApiKey | None) -> str:
    """Return whose calls are made with a key: of an admin's, and where nobody is asked, the open tenant's."""
    return OPEN_TENANT if key is None or key.tenant is None else key.tenant


def asks_for_admin(path: str) -> bool:
    return path.startswith(ADMIN_PATHS)


def bearer(authorization: str) -> str:
    """Return the key that a header holds; nothing, which is no key, where it holds none."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def key_among(protocols: Sequence[str]) -> str:
    """Return the key that stands among the subprotocols of a WebSocket; nothing where there is none."""
    keys = (protocol.removeprefix(KEY_PROTOCOL) for protocol in protocols if protocol.startswith(KEY_PROTOCOL))
    return next(keys, "")
