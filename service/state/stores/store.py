"""What a store does, whichever it is: it keeps snapshots, which never change, and records, which do.

A snapshot is named by its content (truncated SHA-256), so saving it again makes no second one, and a value that is not
what was saved is noticed. A record has a key that stays; what is kept under it is a mark and the content, and the mark
is such a digest of key and content. So damage is noticed here as well, and the mark tells one content from another.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from service.errors import BatchTooLarge
from service.settings import ENTRY_BYTES

log = logging.getLogger("baton.store")

NAME_BYTES = 16
MARK_BYTES = 16
NO_MARK = b""  # of a record that is not there
RETRY_MS = 1000
OPERATIONS = ("load", "save")  # that can fail, as the metrics name them


class Record(NamedTuple):
    """What is kept under a key: `content` is None where nothing is, or not what was saved."""

    mark: bytes
    content: bytes | None


class Store(Protocol):
    """Where snapshots and records are; one is kept for the state's time to live, unless there is no room for it."""

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        """Keep each state and return its name.

        Raises: StoreUnavailable; BatchTooLarge when there is no room for all of them at once.
        """

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        """Return the state of each name, None where it is gone. Raises: StoreUnavailable."""

    async def read(self, key: bytes) -> Record:
        """Return what is kept under a key of `NAME_BYTES`; to read it is no use, and does not prolong its time.

        Raises: StoreUnavailable.
        """

    async def swap(self, key: bytes, before: bytes, content: bytes | None) -> bool:
        """Keep `content`, or nothing, under the key if what is there has the mark `before`; return whether it had.

        Raises: StoreUnavailable; BatchTooLarge when there is no room for it.
        """

    async def close(self) -> None:
        """Let go of connections and files."""


class Stores(Protocol):
    """The store of each tenant, which may be the same for all."""

    async def of(self, tenant: str) -> Store:
        """Return the store that a tenant's states are in. Raises: StoreUnavailable."""

    async def close(self) -> None:
        """Let go of all of them."""


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


def record_of(key: bytes, value: bytes | None) -> Record:
    """Return what the value that a store found under a key says."""
    if value is None:
        return Record(NO_MARK, None)
    if is_record(key, value):
        return Record(value[:MARK_BYTES], value[MARK_BYTES:])
    log.error("the record %s in the state store is not what was saved; it is refused", key.hex())
    return Record(value[:MARK_BYTES], None)


def is_record(key: bytes, value: bytes) -> bool:
    """Return whether the value is what `value_of` once gave for the key."""
    return value[:MARK_BYTES] == name_of(key + value[MARK_BYTES:])


def value_of(key: bytes, content: bytes | None) -> bytes | None:
    """Return what a store keeps under a key for it to have that content."""
    return None if content is None else name_of(key + content) + content


def taken_bytes(states: Sequence[bytes | None], limit: int) -> int:
    """Return the bytes that the states take in a store.

    Raises: BatchTooLarge when that is more than `limit`.
    """
    size = sum(len(state) + ENTRY_BYTES for state in states if state is not None)
    if size > limit:
        raise BatchTooLarge(f"the states of the request take {size} bytes in the store; send fewer items", limit=limit)
    return size
