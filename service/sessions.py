"""Sessions: from the token that a client sent to the point where its session goes on, and back.

It knows engines, tokens and what they may be used for, not HTTP. Invariant: a point comes from a token that was sealed
for the same tenant and model and has not expired, or from nothing because a new session was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from service.engine import Engine
from service.engines import Engines
from service.errors import NotReady, StateError, StateInvalid, StateModelGone, StateWrongModel, UnknownModel
from service.settings import Settings
from service.state.token import INVALID, Sealer, new_session_id


@dataclass(frozen=True, slots=True)
class Point:
    """One point of one session: the model version that goes on from it, its state, its steps so far; at 0 no state."""

    engine: Engine
    state: bytes | None
    session_id: bytes
    step: int

    def after(self, steps: int, state: bytes) -> Point:
        """Return the point that `steps` more lead to."""
        return Point(self.engine, state, self.session_id, self.step + steps)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a client carries of a point. Units: expires_ms in milliseconds since 1970 UTC."""

    token: bytes
    expires_ms: int


class Sessions:
    """Makes points of tokens and tokens of points, many at a time."""

    def __init__(self, settings: Settings, engines: Engines, sealer: Sealer) -> None:
        self._settings, self._engines, self._sealer = settings, engines, sealer

    def begin(self, engine: Engine) -> Point:
        """Return the first point of a new session.

        Raises: UnknownModel when the engine is retiring.
        """
        if engine.ends_ms is not None:
            name = engine.manifest.name
            raise UnknownModel(f"model {name!r} is being retired: it only goes on with the sessions it has")
        return Point(engine, state=None, session_id=new_session_id(), step=0)

    async def resume(self, tokens: Sequence[bytes], *, model: str, tenant: str) -> list[Point | StateError]:
        """Return the point of each token, or why it cannot be used: StateInvalid, StateExpired, StateModelGone or
        StateWrongModel, authenticity first.

        A token of a version that is not loaded waits for a reload that is under way, for another worker may be ahead.

        Raises: NotReady when that takes longer than a request may wait.
        """
        points = [self._attempt(token, model, tenant) for token in tokens]
        for index, point in enumerate(points):
            if isinstance(point, StateModelGone) and not self._engines.settled.is_set():
                await self._reloaded()
                points[index] = self._attempt(tokens[index], model, tenant)
        return points

    async def _reloaded(self) -> None:
        try:
            await asyncio.wait_for(self._engines.settled.wait(), self._settings.timeout_ms / 1000)
        except TimeoutError:
            raise NotReady("the models are being reloaded; try again", retry_after_ms=1000) from None

    async def hand_out(self, points: Sequence[Point], *, tenant: str) -> list[Carried]:
        """Return what the client carries of each point, none of them new."""
        return [self._seal(point, tenant) for point in points]

    def _attempt(self, token: bytes, model: str, tenant: str) -> Point | StateError:
        try:
            return self._open(token, model, tenant)
        except StateError as error:
            return error

    def _open(self, token: bytes, model: str, tenant: str) -> Point:
        fingerprint = self._sealer.maker(token, longest_state_bytes=self._settings.max_state_bytes)
        session = self._sealer.open(token, tenant=tenant)
        engine = self._engines.by_fingerprint(fingerprint)
        if engine is None:
            message = "the model version that made this state is not served here any more; begin a new session"
            raise StateModelGone(message, reason="model_gone")
        if engine.manifest.name != model:
            message = f"this state was made by model {engine.manifest.name!r}, the request names {model!r}"
            raise StateWrongModel(message, reason="wrong_model")
        if len(session.state) != engine.state_bytes:
            raise StateInvalid(INVALID, reason="wrong_size")
        engine.metrics.token_opened()
        return Point(engine, session.state, session.id, session.step)

    def _seal(self, point: Point, tenant: str) -> Carried:
        assert point.state is not None
        token, expires_ms = self._sealer.seal(
            point.state,
            session_id=point.session_id,
            step=point.step,
            fingerprint=point.engine.manifest.fingerprint,
            tenant=tenant,
            expires_before_ms=point.engine.ends_ms,
        )
        point.engine.metrics.token_issued(point.step)
        return Carried(token, expires_ms)
