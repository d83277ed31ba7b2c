"""What a store of snapshots does, whichever it is.

A snapshot is named by its content (truncated SHA-256), so it never changes, saving it again makes no second one, and a
value that is not what was saved is noticed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Protocol

log = logging.getLogger("baton.store")

NAME_BYTES = 16
RETRY_MS = 1000


class Store(Protocol):
    """Where snapshots are; one is kept for the state's time to live, unless there is no room for it."""

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        """Keep each state and return its name.

        Raises: StoreUnavailable; BatchTooLarge when there is no room for all of them at once.
        """

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return the state of each name, None where it is gone. Raises: StoreUnavailable."""

    async def close(self) -> None:
        """Let go of connections and files."""


def name_of(state: bytes) -> bytes:
    """Return the name of a state's snapshot."""
    return hashlib.sha256(state).digest()[:NAME_BYTES]


def verified(name: bytes, state: Any) -> bytes | None:
    """Return what a store found under a name if it is what was saved, else None; None stays None."""
    if state is None:
        return None
    if isinstance(state, bytes) and name_of(state) == name:
        return state
    log.error("the value of %s in the state store is not what was saved; it is refused", name.hex())
    return None
