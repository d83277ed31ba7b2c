"""The events of a generation: what each choice adds as it comes, errors in their place, and at the end what it cost.

It knows forks and what is shown of them, not how events travel. Invariant: of each item there is an event that ends it,
the last of each of its choices or its error.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from service.endpoints.stateful.generate.generation import Fork, Generation
from service.endpoints.stateful.generate.openings import Opening
from service.endpoints.stateful.generate.schema import GenerateRequest
from service.endpoints.stateful.generate.shown import hand_out, show_end, take_news
from service.engine.engine import Engine
from service.errors import RequestError
from service.web.batch import note, show_cost, within
from service.web.context import Call
from service.web.events import event


class Events:
    """What is told of one request's generation."""

    def __init__(
        self,
        call: Call,
        body: GenerateRequest,
        newest: Engine,
        openings: Sequence[Opening | RequestError],
        generation: Generation,
    ) -> None:
        self._call, self._body, self._newest, self._generation = call, body, newest, generation
        self._openings = openings
        self._count = len(openings) + len(call.rejected)
        self._places = [place for place in range(self._count) if place not in call.rejected]
        self._errors: dict[int, RequestError] = {}
        self._waiting: set[Fork] = set()  # for a step at which all its text is told, so that a state can be

    async def written(self) -> AsyncGenerator[bytes]:
        """Yield what there is to tell after each turn, as it is written."""
        for place, rejected in self._call.rejected.items():
            yield self._refuse(place, rejected.error, rejected.id)
        for item, opening in enumerate(self._openings):
            if isinstance(opening, RequestError):
                yield self._fail(item, opening)
        generation = self._generation
        with generation.under_way():
            while generation.live:
                yield await self._told(await generation.turn())
        note(self._call, self._count, [*self._errors.values()])
        yield event(self._summary())

    async def _told(self, turned: Sequence[Fork]) -> bytes:
        """Return what is told of these sequences after a turn."""
        every = self._body.state_every
        self._waiting.update(fork for fork in turned if every and not fork.steps % every)
        due = [fork for fork in turned if fork.finish or (fork in self._waiting and not fork.holds_back)]
        self._waiting.difference_update(due)
        states = await hand_out(self._call, due, self._body.hold, self._body.precision)
        told: list[bytes] = []
        for fork in turned:
            state = states.get(fork)
            if state is None and fork.decoding is not None and not fork.has_text:
                continue  # it is held back
            ended = show_end(fork, svg=self._body.svg) if fork.finish else {}
            head = {"index": self._places[fork.item], "choice": fork.number}
            told.append(event({**head, **take_news(fork), **ended, **(state or {})}))
            if fork.error is not None and self._places[fork.item] not in self._errors:
                told.append(self._fail(fork.item, fork.error))
        return b"".join(told)

    def _fail(self, item: int, error: RequestError) -> bytes:
        place = self._places[item]
        error.field = within(f"{self._body.items_field}[{place}]", error.field)
        return self._refuse(place, error, self._body.items[item].id)

    def _refuse(self, place: int, error: RequestError, id: str | None) -> bytes:
        self._errors[place] = error
        return event({"index": place, "id": id, "error": error.body()})

    def _summary(self) -> dict[str, Any]:
        failed, manifest = len(self._errors), self._newest.manifest
        return {
            "model": manifest.name,
            "version": manifest.version,
            "summary": {"ok": self._count - failed, "failed": failed},
            **show_cost(self._generation.timing, time.monotonic() - self._call.started),
        }
