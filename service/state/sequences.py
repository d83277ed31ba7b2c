"""Sequences: sessions that clients name by ids of their own, and whose points the server holds.

The point that a sequence has reached is a record of the store, which each step replaces. It knows points and the store,
not HTTP and not how a step is run. Invariant: a step counts only if the record that it began from is still there when
it is done, else it is taken again. So the steps of a sequence have one order, in whatever processes they are taken, and
a process that dies leaves no lock behind. None begins anew unless it was asked to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from service.engine.engine import Engine
from service.engine.registry import Registry
from service.errors import DeadlineExceeded, InvalidRequest, SequenceUnknown
from service.settings import Settings
from service.state.sessions import Point, Sessions, unholdable
from service.state.stores.store import MARK_BYTES, NAME_BYTES, NO_MARK, Store, Stores

Take = Callable[[Point, float], Awaitable[Point]]  # within how many seconds

HEADER = struct.Struct("<16s16sQ")  # of a record: model fingerprint, session id, steps so far; then comes the state


@dataclass(frozen=True, slots=True)
class Advanced:
    """How many steps a sequence has taken now, and whether a live one of the same id was discarded for it."""

    step: int
    restarted: bool


class Sequences:
    """Leads sequences from step to step; `stores` is None where nothing can be held."""

    def __init__(self, settings: Settings, engines: Registry, sessions: Sessions, stores: Stores | None) -> None:
        self._engines, self._sessions, self._stores = engines, sessions, stores
        self._largest_state_bytes = settings.largest_held_state - MARK_BYTES - HEADER.size
        self._turns: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()  # as long as somebody is there
        self._waiting: Counter[tuple[str, str]] = Counter()

    def waiting(self, model: str, tenant: str) -> int:
        """Return how many steps wait for others of their sequence in this process, before any queue knows of them."""
        return self._waiting[model, tenant]

    async def advance(
        self,
        model: str,
        id: int | str,
        *,
        tenant: str,
        start: bool,
        end: bool,
        timeout_s: float,
        take: Take,
        version: str | None = None,
    ) -> Advanced:
        """Have `take` lead the sequence `id` on: with `start` a new one from its first point, of `version` or the
        newest, with `end` for the last time, which leaves nothing of it.

        `take` returns the point that it leads to from the one it is given, within the time it is given: what is left of
        `timeout_s`. If it raises, nothing has changed; where another process was quicker, it is called again with a
        newer point. In this process steps are taken first come, first served.

        Raises: UnknownModel; InvalidRequest when the model has no states or they cannot be held; SequenceUnknown;
        DeadlineExceeded; what `Sessions.maker`, the store and `take` raise.
        """
        loop = asyncio.get_running_loop()
        key, deadline = _key(tenant, model, id), loop.time() + timeout_s
        turn = await self._turn(key, deadline, (model, tenant))
        try:
            while (left_s := deadline - loop.time()) > 0:
                newest = self._engines.get(model, version)
                store = await self._store(tenant, newest)
                advanced = await self._try(key, newest, id, store, start=start, end=end, take=take, left_s=left_s)
                if advanced is not None:
                    return advanced
        finally:
            turn.release()
        raise _late()

    async def _turn(self, key: bytes, deadline: float, whose: tuple[str, str]) -> asyncio.Lock:
        """Return the lock of the sequence in this process, once it is the caller's."""
        turn = self._turns.get(key)
        if turn is None:  # nobody else is there, and a timer would cost more than all the rest here
            turn = self._turns[key] = asyncio.Lock()
            await turn.acquire()
            return turn
        self._waiting[whose] += 1
        try:
            async with asyncio.timeout_at(deadline):
                await turn.acquire()
        except TimeoutError:
            raise _late() from None
        finally:
            self._waiting[whose] -= 1
            if not self._waiting[whose]:
                del self._waiting[whose]
        return turn

    async def _store(self, tenant: str, newest: Engine) -> Store:
        """Return where the tenant's sequences are. Raises: InvalidRequest where the model can have none."""
        if not newest.manifest.streamable:
            raise InvalidRequest(f"model {newest.manifest.name!r} has no state; leave sequence_id out")
        if self._stores is None:
            raise _unholdable()
        return await self._stores.of(tenant)

    async def _try(
        self,
        key: bytes,
        newest: Engine,
        id: int | str,
        store: Store,
        *,
        start: bool,
        end: bool,
        take: Take,
        left_s: float,
    ) -> Advanced | None:
        """Take the step; return None, with nothing changed, where another process was quicker."""
        mark, content = await store.read(key)
        if start:
            before = self._sessions.begin(newest)
        elif content is None:
            raise _unknown(newest.manifest.name, id)
        else:
            before = await self._point(content)
        size = before.engine.layout.size if before.state is None else len(before.state)
        if size > self._largest_state_bytes:
            raise _unholdable()
        after = await take(before, left_s)
        kept = None if end else _content(after)
        if (mark, kept) != (NO_MARK, None) and not await store.swap(key, mark, kept):
            return None
        return Advanced(after.step, restarted=start and content is not None)

    async def _point(self, content: bytes) -> Point:
        fingerprint, session_id, step = HEADER.unpack_from(content)
        engine = await self._sessions.maker(fingerprint)
        engine.metrics.token_opened()
        return Point(engine, content[HEADER.size :], session_id, step)


def _key(tenant: str, model: str, id: int | str) -> bytes:
    """Return the key of a sequence's record; JSON keeps the three apart, and 5 from "5"."""
    text = json.dumps([tenant, model, id]).encode()
    return hashlib.blake2b(text, digest_size=NAME_BYTES, person=b"baton sequence").digest()


def _content(point: Point) -> bytes:
    assert point.state is not None
    return HEADER.pack(point.engine.manifest.fingerprint, point.session_id, point.step) + point.state


def _unknown(model: str, id: int | str) -> SequenceUnknown:
    message = (
        f"model {model!r} has no sequence {id!r:.80}: the first request of one needs sequence_start, and one that was "
        "idle for BATON_STATE_TTL_S, or gave way to others in a full store, is gone"
    )
    return SequenceUnknown(message)


def _unholdable() -> InvalidRequest:
    return unholdable("carry the state yourself, as a state token")


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("other steps of this sequence took until the deadline; nothing has changed")
