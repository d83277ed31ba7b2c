"""Steps, streams and batches of the Python client that go on while replicas come and go, with every answer checked.

It knows the client and what an uninterrupted session answers, not how replicas are run. Invariant: what is counted as
answered was equal, within rounding, to the answer of a session that nothing disturbed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baton_client import NEW, ApiError, AsyncClient, BatonError, StepItem

CLOSE = 1e-4  # of outputs, relative and absolute: the steps of a session share other runs than before
LOST = {404, 409, 410, 422}  # the status of an answer that says that a session cannot go on
STEPPERS, STREAMS, CALLERS = 8, 4, 2
SHARES = (1.0, 0.05, 0.0025)  # of all steps, in turn: how long a session is before another begins
LEARNING = 50  # sessions, of which some begin with each version that a service begins with
UNKNOWN = "unknown"
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Tally:
    """What was answered, and what was not. `begun` counts sessions by the version that they began with.

    `failures` are calls that the client gave up; `lost` are sessions that could not go on, or went on wrongly.
    """

    steps: int = 0
    frames: int = 0
    batches: int = 0
    begun: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def note(self, failure: BatonError) -> None:
        """Count a call, or with it a session, that failed for good."""
        gone = isinstance(failure, ApiError) and failure.status in LOST
        (self.lost if gone else self.failures).append(f"{type(failure).__name__}: {failure}")


class Traffic:
    """What is sent: sessions of `model` that take `rows`, by steps and by streams, and batches of `texts`.

    `steppers` sessions go by steps at a time. `tally` counts meanwhile. Shapes: rows [steps, features]. Units: pause_s
    between two calls of a session.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        output: str,
        rows: Array,
        texts: Sequence[str],
        pause_s: float = 0.02,
        steppers: int = STEPPERS,
        api_key: str | None = None,
    ) -> None:
        self._url, self._model, self._output = url, model, output
        self._steppers, self._api_key = steppers, api_key
        self._rows, self._texts, self._pause_s = rows, list(texts), pause_s
        self.tally, self._until, self._began = Tally(), asyncio.Event(), asyncio.Event()
        self._expected: dict[str, Array] = {}

    async def keep_up(self, until: asyncio.Event) -> Tally:
        """Send until `until` is set, and return the tally; the service must be undisturbed at the beginning."""
        self._until = until
        async with AsyncClient(self._url, api_key=self._api_key) as client:
            await self._learn(client)
            polarities = [result.polarity for result in await client.sentiment(self._texts)]
            await asyncio.gather(
                *(self._sessions(client, self._step, number) for number in range(self._steppers)),
                *(self._sessions(client, self._stream, number) for number in range(STREAMS)),
                *(self._call(client, polarities) for _ in range(CALLERS)),
            )
        return self.tally

    async def _learn(self, client: AsyncClient) -> None:
        """Have an uninterrupted session, whichever version it begins with, for others to be compared with."""
        (whole,) = await client.step_many(self._model, [StepItem(self._rows)], returns="all")
        self._expected[whole.version] = whole.outputs[self._output]

    async def wait_for(self, sessions: int, version: str) -> None:
        """Wait until so many more sessions have begun with a version."""
        wanted = self.tally.begun[version] + sessions
        while self.tally.begun[version] < wanted:
            self._began.clear()
            await self._began.wait()

    async def _sessions(self, client: AsyncClient, take: Any, number: int) -> None:
        """Have one session after the other, the first of them for the whole time where `number` says so."""
        steps = max(1, round(len(self._rows) * SHARES[number % len(SHARES)]))
        while not self._until.is_set():
            try:
                await take(client, steps)
            except BatonError as failure:
                self.tally.note(failure)
                await asyncio.sleep(self._pause_s)

    async def _step(self, client: AsyncClient, steps: int) -> None:
        state: Any = NEW
        version = ""
        for step in range(steps):
            if self._until.is_set():
                return
            result = await client.step(self._model, self._rows[step : step + 1], state=state)
            if not step:
                version = result.version
                while version not in self._expected:
                    await self._learn(client)
                self._begin(version)
            if not self._follows(version, step, result.outputs, (result.step, result.version)):
                return
            state = result.state
            self.tally.steps += 1
            await asyncio.sleep(self._pause_s)

    async def _stream(self, client: AsyncClient, steps: int) -> None:
        async def inputs() -> AsyncIterator[Array]:
            for step in range(steps):
                if self._until.is_set():
                    return
                yield self._rows[step : step + 1]
                await asyncio.sleep(self._pause_s)

        async with client.stream(self._model, checkpoint_every=30) as stream:
            step, version = 0, ""
            async for output in stream.map(inputs()):
                if not step:
                    version = await self._whose(client, output.outputs)
                    self._begin(version)
                if not self._follows(version, step, output.outputs, (output.step, version)):
                    return
                step += 1
                self.tally.frames += 1

    def _begin(self, version: str) -> None:
        self.tally.begun[version] += 1
        self._began.set()

    async def _whose(self, client: AsyncClient, outputs: dict[str, Array]) -> str:
        """Return the version that begins with these outputs; of versions that answer alike, the first that was seen."""
        for _ in range(LEARNING):
            for version, expected in self._expected.items():
                if _close(outputs[self._output], expected[0]):
                    return version
            await self._learn(client)
        return UNKNOWN

    async def _call(self, client: AsyncClient, expected: list[float | None]) -> None:
        while not self._until.is_set():
            try:
                found = [result.polarity for result in await client.sentiment(self._texts)]
                if np.allclose(found, expected, atol=CLOSE):
                    self.tally.batches += 1
                else:
                    self.tally.failures.append(f"polarities {found} where {expected} were right")
            except BatonError as failure:
                self.tally.note(failure)
            await asyncio.sleep(self._pause_s)

    def _follows(self, version: str, step: int, outputs: dict[str, Array], found: tuple[int, str]) -> bool:
        """Return whether an answer is that of an uninterrupted session; otherwise the session is lost."""
        made, expected = outputs[self._output], self._expected[version][step] if version in self._expected else None
        if expected is not None and found == (step + 1, version) and _close(made, expected):
            return True
        self.tally.lost.append(f"step {step + 1} of version {version}: {made} where {expected} was right, at {found}")
        return False


def _close(made: Array, expected: Array) -> bool:
    return bool(np.allclose(made, expected, rtol=CLOSE, atol=CLOSE))
