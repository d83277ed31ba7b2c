"""Generation: stepping with feedback, the sequences of one request side by side.

Each turn draws and feeds the next steps of every sequence that has not ended, in one run that other requests share. It
knows sessions, rows and what is drawn, not how that is shown. Invariants: a choice depends on its seed and on where it
began, not on its neighbours; whatever ends a sequence, its session is after the last step that it counts.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import starmap
from typing import Any

from service.batching.submission import Timing
from service.contract.parts import Mixture
from service.endpoints.stateful.generate.openings import Opening
from service.endpoints.stateful.generate.schema import SEEDS, Finish
from service.engine.drawing import Choice, Draw, Numbers
from service.engine.engine import Engine
from service.engine.points import PenPoint, PointDraw
from service.engine.rows import Answer, Drawn, Row
from service.errors import Draining, InternalError, ModelFailed, RequestError
from service.model.decoding import Decoding
from service.state.sessions import Point, steps_left
from service.web.batch import in_turn, merged, serve_rows
from service.web.context import Call
from service.web.numbers import EXACT

log = logging.getLogger("baton.generation")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the sequences: `forks` of each item, of `max_steps` at most, up to one of the texts `stops`.

    Sequence i of an item draws by seed `seed` + i, or from one that is drawn itself. With `likely` what the model held
    likely is noted: of the id that was drawn, and of so many of the likeliest. Each `pause` steps a turn ends. `choice`
    is for ids, `bias` for points of a pen.
    """

    choice: Choice
    max_steps: int
    forks: int
    seed: int | None
    stops: Sequence[str]
    likely: int | None
    pause: int | None = None
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Likely:
    """How likely the model held the id that was drawn, and its likeliest; `place` is where its text begins."""

    id: int
    share: float
    likeliest: Sequence[tuple[int, float]]
    place: int


def choice(temperature: float | None, top_k: int | None, top_p: float | None) -> Choice:
    """Return how ids are chosen, where members may be left open; a share of all leaves none out."""
    return Choice(1.0 if temperature is None else temperature, top_k, None if top_p == 1 else top_p)


class Fork:
    """One sequence in the making: choice `number` of item `item`.

    `ids` and `likely` are those since they were last shown, and `steps` all. Where it `writes_points`, `trace` has all
    points of the pen, of which `traced` were shown. `finish` says why it ended, and `error` what came in between;
    `doubts` are of the condition that it began from.
    """

    def __init__(self, item: int, number: int, seed: int, opening: Opening, wanted: Wanted, left: int) -> None:
        engine = opening.point.engine
        assert engine.manifest.feedback is not None
        self.item, self.number, self.seed, self.engine, self.steps = item, number, seed, engine, 0
        self._start, self._state, self.doubts = opening.point, opening.point.state, opening.doubts
        self._wanted, self._numbers = wanted, Numbers(seed)
        self.writes_points = isinstance(engine.manifest.feedback, Mixture)
        self._left, self._most = left, max(1, min(wanted.max_steps, left))  # a step too many is refused by the engine
        vocabulary = engine.model.vocabulary
        self.decoding = None if vocabulary is None else Decoding(vocabulary.tokenizer, opening.ids, wanted.stops)
        self.ids: list[int] = []
        self.trace: list[PenPoint] = []
        self.traced = 0
        self.likely: list[Likely] = []
        self.finish: Finish | None = None
        self.error: RequestError | None = None
        self._row = Row()

    @property
    def point(self) -> Point:
        """Where the sequence is: after the last step that was drawn."""
        assert self._state is not None
        return self._start.after(self.steps, self._state)

    def next_row(self) -> Row:
        """Return the row that draws the next steps: few at first, so that the first is soon there."""
        count = min(self.engine.most_drawn, self._most - self.steps, 1 + self.steps)
        if self._wanted.pause is not None:
            count = min(count, self._wanted.pause - self.steps % self._wanted.pause)
        first = self._start.step + self.steps
        self._row = Row(
            state=self._state, draws=self._draws(range(first, first + count)), steps_left=self._left - self.steps
        )
        return self._row

    def _draws(self, steps: Iterable[int]) -> list[Draw] | list[PointDraw]:
        if self.writes_points:
            return [PointDraw(self._numbers.four_at(step), self._wanted.bias) for step in steps]
        return [Draw(self._wanted.choice, self._numbers.at(step), self._wanted.likely) for step in steps]

    def take(self, outcome: Answer | Exception) -> None:
        """Take in what came of that row."""
        if not isinstance(outcome, Answer):
            self.fail(outcome if isinstance(outcome, RequestError) else InternalError("the model failed"))
            return
        for drawn in self._row.drawn:
            if self.finish is None:
                self._add(drawn)
        if self.finish is not None and self.decoding is not None:
            self.decoding.end()

    def _add(self, drawn: Drawn) -> None:
        self._state = drawn.state
        self.steps += 1
        if isinstance(drawn.step, int):
            self._add_id(drawn.step, drawn)
        else:
            self.trace.append(drawn.step)
        if drawn.ends:
            self.finish = "end"
        if self.finish is None and self.steps == self._most:
            self.finish = "length"

    def _add_id(self, id: int, drawn: Drawn) -> None:
        if drawn.expected is not None:
            place = 0 if self.decoding is None else self.decoding.length
            self.likely.append(Likely(id, drawn.expected.share, drawn.expected.likeliest, place))
        self.ids.append(id)
        if self.decoding is not None and not drawn.ends:
            self._decode(self.decoding, id)

    def _decode(self, decoding: Decoding, drawn: int) -> None:
        try:
            decoding.add(drawn)
        except Exception as failure:  # noqa: BLE001 - the library raises bare Exceptions; it is logged
            log.error("%s: an id could not be made text: %s", self.engine.manifest.name, failure)
            self.fail(ModelFailed("the tokenizer fails on what was drawn; the log has the cause"))
        if decoding.stopped:
            self.finish = "stop"

    @property
    def has_text(self) -> bool:
        """Whether there is text that was not shown."""
        return self.decoding is not None and self.decoding.has_text

    @property
    def holds_back(self) -> bool:
        """Whether there is text that cannot be shown yet."""
        return self.decoding is not None and self.decoding.holds_back

    def fail(self, error: RequestError) -> None:
        """End with an error, which is kept."""
        self.finish, self.error = "error", error
        if self.decoding is not None:
            self.decoding.end()


class Generation:
    """The sequences of one request, which are its `forks`."""

    def __init__(
        self, call: Call, wanted: Wanted, openings: Sequence[Opening | RequestError], opened: Timing, limit_s: float
    ) -> None:
        """Go on from `openings`, which took the time `opened`; each turn waits for its run `limit_s` at most."""
        self._call, self._limit_s, self._opened = call, limit_s, opened
        self._spent: dict[Engine, Timing] = {}
        self.forks = list(starmap(Fork, _forks(call, wanted, openings)))

    async def turn(self) -> Sequence[Fork]:
        """Draw the next ids of each live sequence; return those, some of which may have ended. What an engine refuses
        ends its own sequences alone.

        Raises: ClientDisconnect.
        """
        turned = self.live
        parts: dict[Engine, list[Fork]] = {}
        for fork in turned:
            parts.setdefault(fork.engine, []).append(fork)
        runs = self._call.work.runs
        before = len(runs)
        try:
            await _all_of([self._run(engine, forks) for engine, forks in parts.items()])
        finally:
            for engine, timing in runs[before:]:
                self._spent[engine] = in_turn(self._spent[engine], timing) if engine in self._spent else timing
            del runs[before:]
        return turned

    @property
    def live(self) -> list[Fork]:
        """The sequences that have not ended."""
        return [fork for fork in self.forks if fork.finish is None]

    @property
    def timing(self) -> Timing:
        """Where the time went, that of the openings too."""
        return in_turn(self._opened, merged([*self._spent.values()])) if self._spent else self._opened

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count the generation as running, and in the end note its runs, those of a model as one."""
        try:
            with self._call.service.metrics.generations.track_inprogress():
                yield
        finally:
            self._call.work.runs += self._spent.items()

    async def _run(self, engine: Engine, forks: Sequence[Fork]) -> None:
        """Raises: ClientDisconnect."""
        try:
            if self._call.peer.ending:
                raise Draining("the service is shutting down; go on from the state elsewhere", retry_after_ms=1000)
            rows = [fork.next_row() for fork in forks]
            await engine.batcher.wait_for_room(self._call.tenant, rows=len(rows), timeout_s=self._limit_s)
            (served,) = await serve_rows(self._call, {engine: rows}, self._limit_s)
        except RequestError as error:
            for fork in forks:
                fork.fail(copy(error))
            return
        engine.metrics.drew(sum(len(row.drawn) for row in rows))
        for fork, outcome in zip(forks, served.outcomes, strict=True):
            fork.take(outcome)


async def _all_of(runs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for the end of all runs, which are made at the same time.

    Raises: what the first of them raised that did.
    """
    if len(runs) == 1:
        await runs[0]
        return
    for failure in await asyncio.gather(*runs, return_exceptions=True):
        if failure is not None:
            raise failure


def _forks(
    call: Call, wanted: Wanted, openings: Sequence[Opening | RequestError]
) -> Iterator[tuple[int, int, int, Opening, Wanted, int]]:
    for item, opening in enumerate(openings):
        if isinstance(opening, Opening):
            first = secrets.randbelow(EXACT) if wanted.seed is None else wanted.seed
            left = steps_left(opening.point, call.service.settings)
            for number in range(wanted.forks):
                yield item, number, (first + number) % SEEDS, opening, wanted, left
