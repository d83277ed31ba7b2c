"""Snapshots and records in a file that all processes of a machine share: the default.

All that is to be saved or swapped in one turn of the event loop is one transaction, made on the loop: it takes less
than the way to a thread and back, and writes to the kernel's memory, not to a disk. It knows the event loop and the
metrics, not the file. Invariant: the loop waits neither for another process' transaction nor without an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import lmdb

from service.errors import SettingsError, StoreUnavailable
from service.metrics import Metrics
from service.settings import EMBEDDED_SHARE
from service.state.stores.database import Change, Done
from service.state.stores.folder import Folder
from service.state.stores.store import OPERATIONS, RETRY_MS, Record, name_of, record_of, taken_bytes, value_of

log = logging.getLogger("baton.store")

TURN_S = 2.0  # the longest wait for other processes to write
POLL_S = 0.001
US = 1_000_000


class _Waiting(NamedTuple):
    """The changes that a request waits for, and what tells it which of them were made."""

    changes: list[Change]
    size: int
    made: asyncio.Future[list[bool]]


class EmbeddedStore:
    """Snapshots and records in `state_dir`, whose file takes at most `max_bytes`; the least recently used give way, and
    the old.

    One is old `ttl_s` after it was last saved, loaded or swapped; a load within a minute of the last may go unnoted.
    """

    def __init__(
        self, state_dir: Path, *, max_bytes: int, ttl_s: int, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        """Raises: SettingsError when the file cannot be used."""
        self._most_at_once, self._clock = max_bytes // EMBEDDED_SHARE, clock
        self._open = partial(Folder, state_dir, max_bytes=max_bytes, ttl_s=ttl_s)
        self._folder = self._open(now_us=self._now_us())
        self._waiting: list[_Waiting] = []
        self._unnoted: dict[bytes, None] = {}
        self._give_up_s = 0.0  # by the loop's clock
        self._idle = asyncio.Event()
        self._idle.set()
        self._metrics = metrics
        self._evictions = {reason: metrics.evictions.labels(reason) for reason in ("age", "space")}
        self._failures = {name: metrics.store_failures.labels(name) for name in OPERATIONS}
        self._show(self._folder.trimmed)

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        size = taken_bytes(states, self._most_at_once)
        names = [name_of(state) for state in states]
        await self._made([Change(name, state) for name, state in zip(names, states, strict=True)], size)
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        self._keep_up("load")
        try:
            found, unnoted = self._folder.database.find(names, self._now_us())
        except (lmdb.Error, OSError) as failure:
            raise self._unavailable("load", failure) from failure
        if unnoted:
            self._unnoted.update(dict.fromkeys(unnoted))
            self._wake_writer()
        return found

    async def read(self, key: bytes) -> Record:
        self._keep_up("load")
        try:
            return record_of(key, self._folder.database.read(key, self._now_us()))
        except (lmdb.Error, OSError) as failure:
            raise self._unavailable("load", failure) from failure

    async def swap(self, key: bytes, before: bytes, content: bytes | None) -> bool:
        value = value_of(key, content)
        (made,) = await self._made([Change(key, value, before)], taken_bytes([value], self._most_at_once))
        return made

    async def close(self) -> None:
        await self._idle.wait()
        self._folder.close()

    def _keep_up(self, operation: str) -> None:
        """Go over to the file that is there now, if ours was deleted: all processes must have the same.

        Raises: StoreUnavailable when that cannot be opened.
        """
        if self._folder.is_current:
            return
        try:
            folder = self._open(now_us=self._now_us(), patience_s=TURN_S)
        except SettingsError as failure:
            raise self._unavailable(operation, failure) from failure
        log.error("the embedded store's file was deleted, and what it held with it; another is used now")
        with suppress(lmdb.Error):
            self._folder.close()
        self._folder = folder
        self._show(folder.trimmed)

    def _made(self, changes: list[Change], size: int) -> asyncio.Future[list[bool]]:
        """Return which of the changes were made, once they are written."""
        made = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(changes, size, made))
        self._wake_writer()
        return made

    def _wake_writer(self) -> None:
        """Have all that waits written in the loop's next turn, when all of this one has come."""
        if self._idle.is_set():
            self._idle.clear()
            loop = asyncio.get_running_loop()
            self._give_up_s = loop.time() + TURN_S
            loop.call_soon(self._write)

    def _write(self) -> None:
        """Write what waits if it is this process' turn; else try again soon, but not for ever."""
        loop = asyncio.get_running_loop()
        failure: Exception | None = None
        try:
            self._keep_up("save")
            if not self._folder.take_turn():
                if loop.time() < self._give_up_s:
                    loop.call_later(POLL_S, self._write)
                    return
                failure = self._unavailable("save", f"no turn to write came in {TURN_S} s")
        except Exception as unforeseen:  # noqa: BLE001 - as below
            failure = unforeseen
        requests, used = self._next()
        done = failure or self._write_these(requests, used)
        made = iter(done.made if isinstance(done, Done) else ())
        for request in requests:
            its = list(islice(made, len(request.changes)))
            if request.made.done():  # who waited is gone
                continue
            if isinstance(done, Done):
                request.made.set_result(its)
            else:
                request.made.set_exception(copy(done))
        self._idle.set()
        if self._waiting:
            self._wake_writer()

    def _next(self) -> tuple[list[_Waiting], list[bytes]]:
        """Return what goes into one transaction: requests in their order, one at least if any waits."""
        size = count = 0
        for request in self._waiting:
            size += request.size
            if count and size > self._most_at_once:
                break
            count += 1
        requests, self._waiting = self._waiting[:count], self._waiting[count:]
        used, self._unnoted = list(self._unnoted), {}
        return requests, used

    def _write_these(self, requests: Sequence[_Waiting], used: Sequence[bytes]) -> Done | Exception:
        """Write in this process' turn, and end it; return what was done, or why that could not be."""
        changes = [change for request in requests for change in request.changes]
        try:
            done = self._folder.database.write(changes, used, self._now_us())
            self._show(done)
        except (lmdb.Error, OSError) as failure:
            return self._unavailable("save", failure)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is the answer of all who wait
            return failure
        finally:
            self._folder.give_turn()
        return done

    def _show(self, done: Done) -> None:
        for reason, gone in (("age", done.aged), ("space", done.crowded_out)):
            if gone:
                self._evictions[reason].inc(gone)
        self._metrics.show_held(id(self), done.snapshots, done.bytes)

    def _unavailable(self, operation: str, failure: object) -> StoreUnavailable:
        self._failures[operation].inc()
        log.warning("the embedded store failed to %s: %s: %s", operation, type(failure).__name__, failure)
        message = "the store of held states cannot be used now; nothing has changed, send the same again"
        return StoreUnavailable(message, retry_after_ms=RETRY_MS)

    def _now_us(self) -> int:
        return int(US * self._clock())
