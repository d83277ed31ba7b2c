"""Sessions: from the token that a client sent to the point where its session goes on, and back.

A token carries the state, or names a snapshot of it in the store; from there on both are the same. It knows engines,
tokens, the store and what they may be used for, not HTTP. Invariant: a point comes from a token that was sealed for the
same tenant and model and has not expired, or from nothing because a new session was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, ParamSpec, TypeVar

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.errors import (
    InvalidRequest,
    ItemTooLarge,
    NotReady,
    RequestError,
    StateGone,
    StateInvalid,
    StateModelGone,
    StateWrongModel,
    StoreUnavailable,
    UnknownModel,
    attempt,
)
from service.settings import Settings
from service.state.stores.store import NAME_BYTES, Stores
from service.state.token import Form, Sealer, new_session_id

P = ParamSpec("P")
T = TypeVar("T")

Hold = Literal["client", "server"]
Precision = Literal["float32", "float16"]
Packed = tuple[Form, bytes]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of one session: the model version that goes on from it, its state, its steps so far.

    At step 0 there is no state, unless the session began from a condition.

    `held` says that the client has no more of the state than a reference to the server's snapshot.
    """

    engine: Engine
    state: bytes | None
    session_id: bytes
    step: int
    held: bool = False

    def after(self, steps: int, state: bytes) -> Point:
        """Return the point that `steps` more lead to."""
        return Point(self.engine, state, self.session_id, self.step + steps, self.held)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a client carries of a point: the state in a token, or with `held` a token that names the server's snapshot.

    Units: expires_ms in milliseconds since 1970 UTC.
    """

    token: bytes
    expires_ms: int
    held: bool


@dataclass(frozen=True, slots=True)
class _Named:
    """A point whose state is still in the store, and the name of its snapshot there."""

    point: Point
    snapshot: bytes


class Sessions:
    """Makes points of tokens and tokens of points, many at a time; `stores` is None where nothing can be held."""

    def __init__(self, settings: Settings, engines: Registry, sealer: Sealer, stores: Stores | None) -> None:
        self._settings, self._engines, self._sealer, self._stores = settings, engines, sealer, stores
        self._longest_payload_bytes = max(settings.max_state_bytes, NAME_BYTES)

    def begin(self, engine: Engine) -> Point:
        """Return the first point of a new session.

        Raises: UnknownModel when the engine is retiring; InvalidRequest where the session needs a condition.
        """
        if engine.ends_ms is not None:
            name = engine.manifest.name
            raise UnknownModel(f"model {name!r} is being retired: it only goes on with the sessions it has")
        return _first(engine)

    async def begin_with(self, version: str, *, model: str, task: Task) -> Point:
        """Return the first point of a new session with a version of a model, also with one that is retiring: a client
        that got outputs of it, and no token yet, has a session there.

        Raises: UnknownModel, WrongTask; InvalidRequest as `begin` does; NotReady when a reload that may bring the
        version takes too long.
        """
        engine = await self._after_reload(self._engines.for_task, model, task, version)
        if isinstance(engine, RequestError):
            raise engine
        return _first(engine)

    async def close(self) -> None:
        """Let go of the stores."""
        if self._stores is not None:
            await self._stores.close()

    async def resume(self, tokens: Sequence[bytes], *, model: str, tenant: str) -> list[Point | RequestError]:
        """Return the point of each token, or why it cannot be used: StateInvalid, StateExpired, StateFromFuture,
        StateModelGone or StateWrongModel, authenticity first; StateGone or StoreUnavailable for a state that was held.

        A token of a version that is not loaded waits for a reload that is under way, for another worker may be ahead.

        Raises: NotReady when that takes longer than a request may wait.
        """
        points: list[Any] = []
        named: dict[int, _Named] = {}
        for index, token in enumerate(tokens):
            opened = await self._after_reload(self._open, token, model, tenant)
            if isinstance(opened, _Named):
                named[index] = opened
            points.append(opened)
        if named:
            for index, point in zip(named, await self._fetch(list(named.values()), tenant), strict=True):
                points[index] = point
        return points

    async def maker(self, fingerprint: bytes) -> Engine:
        """Return the engine of the version that made a state; one that is not loaded waits for a reload that is under
        way, for another worker may be ahead.

        Raises: StateModelGone; NotReady when the reload takes longer than a request may wait.
        """
        engine = await self._after_reload(self._maker, fingerprint)
        if isinstance(engine, RequestError):
            raise engine
        return engine

    async def _after_reload(self, look_up: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RequestError:
        """Return what `look_up` returns, or why it is refused, which may be otherwise after a reload."""
        found = attempt(look_up, *args, **kwargs)
        if isinstance(found, StateModelGone | UnknownModel) and not self._engines.settled.is_set():
            try:
                await asyncio.wait_for(self._engines.settled.wait(), self._settings.timeout_ms / 1000)
            except TimeoutError:
                raise NotReady("the models are being reloaded; try again", retry_after_ms=1000) from None
            found = attempt(look_up, *args, **kwargs)
        return found

    async def hand_out(
        self, points: Sequence[Point], *, tenant: str, hold: Hold | None = None, precision: Precision = "float32"
    ) -> list[Carried | RequestError]:
        """Return what the client carries of each point, none of them new, or why that cannot be made: what `holds`
        raises, PrecisionTooLow, StoreUnavailable, BatchTooLarge, or StateExpired where the version has ended. Nothing
        that the client had before is lost by it."""
        carried: list[Any] = []
        held: list[int] = []
        for index, point in enumerate(points):
            packed: Any = attempt(self._pack, point, hold, precision)
            if isinstance(packed, RequestError):
                carried.append(packed)
            elif packed[0] is Form.HELD:
                held.append(index)
                carried.append(packed)
            else:
                carried.append(attempt(self._seal, point, packed, tenant))
        if held:
            kept = await self._keep([carried[index][1] for index in held], tenant)
            for index, one in zip(held, kept, strict=True):
                carried[index] = attempt(self._seal, points[index], one, tenant) if isinstance(one, tuple) else one
        return carried

    def holds(self, point: Point, hold: Hold | None, precision: Precision) -> bool:
        """Return whether the server is to hold the states that `point` leads to: as `hold` says, else as it came,
        and in any case when a token may not carry them.

        Raises: ItemTooLarge or InvalidRequest when `hold` asks for what cannot be.
        """
        layout, most = point.engine.layout, self._settings.max_state_bytes
        exact = layout.size if point.state is None else len(point.state)
        size = layout.float16_size(point.state) if precision == "float16" else exact
        if hold == "client" and size > most:
            message = f'the state has {size} bytes; a token carries at most {most}: leave out "hold": "client"'
            raise ItemTooLarge(message, limit=most)
        if (hold == "server" or size > most) and exact > self._settings.largest_held_state:
            raise unholdable('leave "hold" out' if size <= most else "begin from a shorter condition")
        return hold == "server" or size > most or (hold is None and point.held)

    def _open(self, token: bytes, model: str, tenant: str) -> Point | _Named:
        fingerprint = self._sealer.maker(token, longest_payload_bytes=self._longest_payload_bytes)
        session = self._sealer.open(token, tenant=tenant)
        engine = self._maker(fingerprint)
        if engine.manifest.name != model:
            message = f"this state was made by model {engine.manifest.name!r}, the request names {model!r}"
            raise StateWrongModel(message, reason="wrong_model")
        form, payload = session.form, session.payload
        if not _fits(len(payload), engine, form):
            raise StateInvalid(reason="wrong_size")
        engine.metrics.token_opened()
        if form is Form.HELD:
            return _Named(Point(engine, None, session.id, session.step, held=True), payload)
        state = payload if form is Form.EXACT else engine.layout.from_float16(payload)
        return Point(engine, state, session.id, session.step)

    def _maker(self, fingerprint: bytes) -> Engine:
        engine = self._engines.by_fingerprint(fingerprint)
        if engine is None:
            message = "the model version that made this state is not served here any more; begin a new session"
            raise StateModelGone(message, reason="model_gone")
        return engine

    async def _fetch(self, named: Sequence[_Named], tenant: str) -> Sequence[Point | RequestError]:
        states: Sequence[bytes | None] = [None] * len(named)
        if self._stores is not None:
            try:
                store = await self._stores.of(tenant)
                states = await store.load([one.snapshot for one in named])
            except StoreUnavailable as error:
                return _refusals(error, len(named))
        return [
            _gone() if state is None else replace(one.point, state=state)
            for one, state in zip(named, states, strict=True)
        ]

    def _pack(self, point: Point, hold: Hold | None, precision: Precision) -> Packed:
        assert point.state is not None
        if self.holds(point, hold, precision):
            return Form.HELD, point.state
        if precision == "float16":
            return Form.FLOAT16, point.engine.layout.to_float16(point.state)
        return Form.EXACT, point.state

    async def _keep(self, states: Sequence[bytes], tenant: str) -> Sequence[Packed | RequestError]:
        """Return what stands for each state in its token: the name of its snapshot."""
        assert self._stores is not None
        try:
            store = await self._stores.of(tenant)
            return [(Form.HELD, name) for name in await store.save(states)]
        except RequestError as error:
            return _refusals(error, len(states))

    def _seal(self, point: Point, packed: Packed, tenant: str) -> Carried:
        form, payload = packed
        token, expires_ms = self._sealer.seal(
            payload,
            form=form,
            session_id=point.session_id,
            step=point.step,
            fingerprint=point.engine.manifest.fingerprint,
            tenant=tenant,
            expires_before_ms=point.engine.ends_ms,
        )
        point.engine.metrics.token_issued(point.step)
        return Carried(token, expires_ms, held=form is Form.HELD)


def steps_left(start: Point, settings: Settings) -> int:
    """Return how many steps the session may yet take."""
    return max(0, settings.max_session_steps - start.step)


def unholdable(instead: str) -> InvalidRequest:
    """Return the refusal of a state that the server cannot hold, which says what to do instead."""
    return InvalidRequest(
        "this service cannot hold the state: it has several workers and a store in memory, which they do not share "
        f"(BATON_STORE), or the state is too large for the store (BATON_STORE_BYTES); {instead}"
    )


def null_state() -> StateInvalid:
    """Return the refusal of a state that is null: the client may have lost its token."""
    return StateInvalid("state is null; leave the member out to begin a new session", reason="null")


def _refusals(error: RequestError, count: int) -> list[RequestError]:
    """Return the store's refusal once for each item; the store does not know that its state is a member of one."""
    if isinstance(error, StoreUnavailable):
        error.field = "state"
    return [copy(error) for _ in range(count)]


def _fits(size: int, engine: Engine, form: Form) -> bool:
    """Return whether a payload of this form can have so many bytes."""
    return size == NAME_BYTES if form is Form.HELD else engine.layout.holds(size, float16=form is Form.FLOAT16)


def begun(engine: Engine, state: bytes) -> Point:
    """Return the first point of a session that begins with `state`, which a start graph made of a condition."""
    return Point(engine, state, session_id=new_session_id(), step=0)


def _first(engine: Engine) -> Point:
    """Raises: InvalidRequest where the model's sessions begin from a condition."""
    if engine.manifest.start is not None:
        message = f"sessions of {engine.manifest.name!r} begin from a condition: give the state of such a session, or "
        raise InvalidRequest(f'{message}a condition, as "begin" of /v1/step and "condition" of /v1/generate')
    return Point(engine, state=None, session_id=new_session_id(), step=0)


def _gone() -> StateGone:
    message = "the server holds this state no longer; go on from an older one, or begin a new session"
    return StateGone(message, reason="not_in_store")
