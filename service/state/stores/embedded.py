"""Snapshots in a file that all processes of a machine share: the default.

All that is to be saved in one turn of the event loop is one transaction, made on the loop: it takes less than the way
to a thread and back, and writes to the kernel's memory, not to a disk. It knows the event loop and the metrics, not the
file. Invariant: the loop waits neither for another process' transaction nor without an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import lmdb

from service.errors import BatchTooLarge, StoreUnavailable
from service.metrics import Metrics
from service.settings import EMBEDDED_SHARE, ENTRY_BYTES
from service.state.stores.database import Done
from service.state.stores.folder import Folder
from service.state.stores.store import RETRY_MS, name_of

log = logging.getLogger("baton.store")

TURN_S = 2.0  # the longest wait for other processes to write
POLL_S = 0.001
US = 1_000_000


class _Waiting(NamedTuple):
    """A request's snapshots, and what tells it that they are kept."""

    snapshots: list[tuple[bytes, bytes]]
    size: int
    kept: asyncio.Future[None]


class EmbeddedStore:
    """Snapshots in `state_dir`, whose file takes at most `max_bytes`; the least recently used give way, and the old.

    One is old `ttl_s` after it was last saved or loaded; a use within a minute of the last may go unnoted.
    """

    def __init__(
        self, state_dir: Path, *, max_bytes: int, ttl_s: int, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        """Raises: SettingsError when the file cannot be used."""
        self._most_at_once, self._clock = max_bytes // EMBEDDED_SHARE, clock
        self._folder = Folder(state_dir, max_bytes=max_bytes, ttl_s=ttl_s, now_us=self._now_us())
        self._database = self._folder.database
        self._waiting: list[_Waiting] = []
        self._unnoted: dict[bytes, None] = {}
        self._give_up_s = 0.0  # by the loop's clock
        self._idle = asyncio.Event()
        self._idle.set()
        self._snapshots_gauge, self._bytes_gauge = metrics.held_states, metrics.held_bytes
        self._evictions = {reason: metrics.evictions.labels(reason) for reason in ("age", "space")}
        self._failures = {operation: metrics.store_failures.labels(operation) for operation in ("load", "save")}
        self._show(self._folder.trimmed)

    async def save(self, states: Sequence[bytes]) -> list[bytes]:
        size = sum(len(state) + ENTRY_BYTES for state in states)
        if size > self._most_at_once:
            message = f"the states of the request take {size} bytes in the store; send fewer items"
            raise BatchTooLarge(message, limit=self._most_at_once)
        names = [name_of(state) for state in states]
        kept = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(list(zip(names, states, strict=True)), size, kept))
        self._wake_writer()
        await kept
        return names

    async def load(self, names: Sequence[bytes]) -> list[bytes | None]:
        try:
            found, unnoted = self._database.find(names, self._now_us())
        except (lmdb.Error, OSError) as failure:
            raise self._unavailable("load", failure) from failure
        if unnoted:
            self._unnoted.update(dict.fromkeys(unnoted))
            self._wake_writer()
        return found

    async def close(self) -> None:
        await self._idle.wait()
        self._folder.close()

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
        ours = self._folder.take_turn()
        if not ours and loop.time() < self._give_up_s:
            loop.call_later(POLL_S, self._write)
            return
        requests, used = self._next()
        failure = (
            self._write_these(requests, used)
            if ours
            else self._unavailable("save", f"no turn to write came in {TURN_S} s")
        )
        for request in requests:
            if request.kept.done():  # who waited is gone
                continue
            if failure is None:
                request.kept.set_result(None)
            else:
                request.kept.set_exception(copy(failure))
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

    def _write_these(self, requests: Sequence[_Waiting], used: Sequence[bytes]) -> Exception | None:
        """Write in this process' turn, and end it; return why that could not be done."""
        snapshots = [snapshot for request in requests for snapshot in request.snapshots]
        try:
            self._show(self._database.write(snapshots, used, self._now_us()))
        except (lmdb.Error, OSError) as failure:
            return self._unavailable("save", failure)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is the answer of all who wait
            return failure
        finally:
            self._folder.give_turn()
        return None

    def _show(self, done: Done) -> None:
        for reason, gone in (("age", done.aged), ("space", done.crowded_out)):
            if gone:
                self._evictions[reason].inc(gone)
        self._snapshots_gauge.set(done.snapshots)
        self._bytes_gauge.set(done.bytes)

    def _unavailable(self, operation: str, failure: object) -> StoreUnavailable:
        self._failures[operation].inc()
        log.warning("the embedded store failed to %s: %s: %s", operation, type(failure).__name__, failure)
        message = "the store of held states cannot be used now; the state that you have stays good, send it again"
        return StoreUnavailable(message, field="state", retry_after_ms=RETRY_MS)

    def _now_us(self) -> int:
        return int(US * self._clock())
