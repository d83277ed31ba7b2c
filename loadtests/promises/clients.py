"""The clients: each has sessions, and goes on with them in every way that tokens allow, by the Python client.

They know the public API and the oracle, not the replicas' troubles. Invariants: a client forgets no token that it may
still use, and counts an operation as lost only where a good token is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from baton_client import NEW, ApiError, AsyncClient, StepResult, StreamInterrupted, Unreachable
from loadtests.promises.history import History
from loadtests.promises.oracle import Array, Oracle, State, differs

TIMEOUT_S = 20.0  # of a call with all its attempts: longer than any one trouble lasts
PLACES = 12  # of a session, that are remembered
SESSIONS = 3  # of a client, that go on at a time
MOST_STEPS = 8
MOST_FRAMES = 24
LOST = {"state_invalid", "state_wrong_model", "state_expired", "state_gone", "state_model_gone"}


@dataclass(frozen=True)
class Place:
    """A point of a session that its client can go back to: its token, and what the oracle has there."""

    token: str
    step: int
    state: State


@dataclass
class Session:
    """A session's places, the newest last; a fork is a place like any other."""

    number: int
    places: list[Place]

    def add(self, place: Place, rng: Random) -> None:
        self.places.append(place)
        if len(self.places) > PLACES:
            self.places.pop(rng.randrange(PLACES // 2))


class Client:
    """One client, that does what its `seed` says until it is stopped."""

    def __init__(self, urls: Sequence[str], oracle: Oracle, history: History, seed: int) -> None:
        self._rng, self._numbers = Random(seed), np.random.default_rng(seed)
        self._oracle, self._history, self._seed = oracle, history, seed
        self._urls = [*urls[seed % len(urls) :], *urls[: seed % len(urls)]]  # not all begin at the same replica
        self._sessions: list[Session] = []
        self._operations: dict[str, tuple[int, Callable[[Session], Awaitable[None]]]] = {
            "step": (8, self._step),
            "rewind": (2, self._rewind),
            "fork": (2, self._fork),
            "retry": (2, self._retry),
            "stream": (2, self._stream),
        }

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Do one operation after the other until `is_over`."""
        async with self._client() as self._calls, self._client(turned=1) as self._others:
            while not is_over():
                await self._next()

    async def verify(self, urls: Sequence[str]) -> None:
        """Go on from every place that is remembered, at each of `urls`: none may be lost when all is well again."""
        for url in urls:
            async with AsyncClient(url, timeout=TIMEOUT_S) as self._calls:
                for session in self._sessions:
                    for place in list(session.places):
                        await self._do("again", session, place.step, lambda p=place, s=session: self._advance(s, p))

    def _client(self, turned: int = 0) -> AsyncClient:
        return AsyncClient([*self._urls[turned:], *self._urls[:turned]], timeout=TIMEOUT_S)

    async def _next(self) -> None:
        if len(self._sessions) < SESSIONS or self._rng.random() < 0.02:
            self._history.sessions += 1
            session = Session(1000 * self._seed + self._history.sessions, [])
            await self._do("begin", session, 0, lambda: self._advance(session, None))
            if session.places:
                self._sessions = [*self._sessions, session][-SESSIONS:]
            return
        session = self._rng.choice(self._sessions)
        name = self._rng.choices([*self._operations], [weight for weight, _ in self._operations.values()])[0]
        await self._do(name, session, session.places[-1].step, lambda: self._operations[name][1](session))

    async def _do(self, name: str, session: Session, step: int, operation: Callable[[], Awaitable[Any]]) -> None:
        try:
            await operation()
        except ApiError as refusal:
            if refusal.code in LOST:
                self._history.loses(name, session.number, step, f"{refusal.code}: {refusal.message}")
            elif refusal.transient:
                self._history.given_up[f"{name}: {refusal.code}"] += 1
            else:
                self._history.differs(name, session.number, step, f"{refusal.code}: {refusal.message}")
        except (Unreachable, StreamInterrupted) as failure:
            cause = failure.__cause__ or failure
            code = getattr(cause, "code", type(cause).__name__)
            if code in LOST:
                self._history.loses(name, session.number, step, str(cause))
            self._history.given_up[f"{name}: {code}"] += 1
        else:
            self._history.answered[name] += 1

    async def _step(self, session: Session) -> None:
        session.add(await self._advance(session, session.places[-1]), self._rng)

    async def _rewind(self, session: Session) -> None:
        session.add(await self._advance(session, self._rng.choice(session.places)), self._rng)

    async def _fork(self, session: Session) -> None:
        """Go on from one place in two ways at once."""
        place = self._rng.choice(session.places)
        for after in await asyncio.gather(*(self._advance(session, place) for _ in range(2))):
            session.add(after, self._rng)

    async def _retry(self, session: Session) -> None:
        """Send a request to two replicas: equal answers, whichever came first."""
        place, values = session.places[-1], self._values()
        answers = [
            client.step(self._oracle.name, values.tolist(), state=place.token, returns="all")
            for client in (self._calls, self._others)
        ]
        for answer in await asyncio.gather(*answers):
            after = self._checked("retry", session, place, values, answer)
        session.add(after, self._rng)

    async def _stream(self, session: Session) -> None:
        """Take steps on a stream, and go on from its last checkpoint."""
        place, after = session.places[-1], {}
        state, step = place.state, place.step
        every = self._rng.randint(1, 10)
        async with self._calls.stream(
            self._oracle.name, state=place.token, returns="all", checkpoint_every=every
        ) as stream:
            for _ in range(self._rng.randint(1, MOST_FRAMES)):
                values = self._values()
                expected, state = self._oracle.advance(state, values)
                answer = await stream.step(values.tolist())
                step += len(values)
                after[step] = Place("", step, state)
                self._compare("stream", session, step, answer.step, answer.outputs, expected)
            reached, token = stream.step_count, stream.state
        if token is not None and reached in after:
            session.add(Place(token, reached, after[reached].state), self._rng)

    async def _advance(self, session: Session, place: Place | None) -> Place:
        """Take some steps from a place, of a new session where there is none."""
        values = self._values()
        hold = self._rng.choice([None, None, "server", "client"])
        options = {} if hold is None else {"hold": hold}
        token = NEW if place is None else place.token
        answer = await self._calls.step(self._oracle.name, values.tolist(), state=token, returns="all", **options)
        before = place or Place("", 0, self._oracle.begin())
        after = self._checked("step", session, before, values, answer)
        if place is None:
            session.add(after, self._rng)
        return after

    def _checked(self, operation: str, session: Session, before: Place, values: Array, answer: StepResult) -> Place:
        expected, state = self._oracle.advance(before.state, values)
        step = before.step + len(values)
        self._compare(operation, session, step, answer.step, answer.outputs, expected)
        return Place(answer.state, step, state)

    def _compare(
        self, operation: str, session: Session, step: int, told: int, outputs: Any, expected: dict[str, Array]
    ) -> None:
        self._history.steps += 1
        if told != step:
            self._history.differs(operation, session.number, step, f"the answer is of step {told}")
        for name, wanted in expected.items():
            given = np.asarray(outputs[name])
            if differs(given, wanted):
                shown = f"{name} is {given.tolist()!r:.200}, and should be {wanted.tolist()!r:.200}"
                self._history.differs(operation, session.number, step, shown)

    def _values(self) -> Array:
        steps, features = self._rng.randint(1, MOST_STEPS), self._oracle.features
        return self._numbers.normal(10, 3, steps if features is None else (steps, features)).round(3)
