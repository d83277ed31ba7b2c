"""The searches of one request on their way: all of them take their steps together, in runs that others share.

It knows engines and rows, not what is searched for. Invariant: each search ends in its own place, found or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from service.batching.submission import Timing
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.engine.search import Search
from service.errors import Draining, InternalError, RequestError
from service.web.batch import NO_RUN, Job, in_turn, merged, serve_rows
from service.web.context import Call

MAX_BEAMS = 16
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS)]
LengthPenalty = Annotated[float, Field(ge=0, le=10)]


@dataclass(slots=True)
class SearchJob(Job):
    """An item that is searched for, in a row of its engine."""

    search: Search


async def run_searches(
    call: Call, jobs: Sequence[SearchJob | RequestError], limit_s: float
) -> tuple[list[SearchJob | RequestError], Timing]:
    """Search until each search is done, in turns of a few steps of all that are not; each turn waits for its run
    `limit_s` at most.

    Raises: what `Batcher.wait_for_room` and `serve_rows` raise.
    """
    found, timing = [*jobs], NO_RUN
    while live := {place: job for place, job in enumerate(found) if isinstance(job, SearchJob) and not job.search.done}:
        if call.peer.ending:
            raise Draining("the service is shutting down; another replica can take this", retry_after_ms=1000)
        refused, spent = await _turn(call, live, limit_s)
        found = [refused.get(place, job) for place, job in enumerate(found)]
        timing = in_turn(timing, spent) if timing.rows else spent
    return found, timing


async def _turn(call: Call, live: dict[int, SearchJob], limit_s: float) -> tuple[dict[int, RequestError], Timing]:
    """Take a few steps of each search; return why some of them cannot go on, by their places."""
    rows: dict[Engine, list[Row]] = {}
    for job in live.values():
        job.search.until = job.search.steps + job.engine.most_drawn
        rows.setdefault(job.engine, []).append(job.row)
    for engine, part in rows.items():
        limit_s = await engine.batcher.wait_for_room(call.tenant, rows=len(part), timeout_s=limit_s)
    served = await serve_rows(call, rows, limit_s)
    outcomes = {engine: iter(one.outcomes) for engine, one in zip(rows, served, strict=True)}
    refused: dict[int, RequestError] = {}
    for place, job in live.items():
        outcome = next(outcomes[job.engine])
        if not isinstance(outcome, Answer):
            error = copy(outcome) if isinstance(outcome, RequestError) else InternalError("the model failed")
            error.field = error.field or job.member
            refused[place] = error
    return refused, merged([one.timing for one in served])
