"""The searches of one request on their way: all of them take their steps together, in runs that others share.

It knows engines and rows, not what is searched for. Invariant: each search ends in its own place, found or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Annotated, TypeGuard

from pydantic import Field

from service.batching.queue import WINDOW
from service.batching.submission import Timing
from service.engine.engine import Engine
from service.engine.rows import Answer
from service.engine.search import Search
from service.errors import RequestError
from service.web.batch import Job, failure, in_turn, merged, serve_rows
from service.web.context import Call

MAX_BEAMS = 16
Beams = Annotated[int, Field(ge=1, le=MAX_BEAMS)]
LengthPenalty = Annotated[float, Field(ge=0, le=10)]


@dataclass(slots=True)
class SearchJob(Job):
    """An item that is searched for, in a row of its engine."""

    search: Search


async def run_searches(
    call: Call, jobs: Sequence[SearchJob | RequestError], limit_s: float, *, keep_states: bool
) -> tuple[list[SearchJob | RequestError], Timing]:
    """Search until each search is done, in turns of a few steps of all that are not; each turn waits for its run
    `limit_s` at most. As many searches are under way at a time as a run may have rows. Without `keep_states` those of
    what was found are let go of.

    Raises: ClientDisconnect.
    """
    found = [*jobs]
    spent: dict[Engine, Timing] = {}
    runs = call.work.runs
    before = len(runs)
    try:
        while going := [(place, job) for place, job in enumerate(found) if _goes_on(job)]:
            live = dict(going[:WINDOW])
            for engine in {job.engine for job in live.values()}:
                turned = {place: job for place, job in live.items() if job.engine is engine}
                refused = await _turn(call, engine, turned, limit_s)
                found = [refused.get(place, job) for place, job in enumerate(found)]
            for job in live.values():
                if job.search.done and not keep_states:
                    job.search.let_go_of_states()
            for engine, timing in runs[before:]:
                spent[engine] = in_turn(spent[engine], timing) if engine in spent else timing
            del runs[before:]
    finally:
        runs += spent.items()
    return found, merged([*spent.values()])


def _goes_on(job: SearchJob | RequestError) -> TypeGuard[SearchJob]:
    return isinstance(job, SearchJob) and not job.search.done


async def _turn(call: Call, engine: Engine, live: dict[int, SearchJob], limit_s: float) -> dict[int, RequestError]:
    """Take a few steps of each search of a model; return why some of them cannot go on, by their places.

    Raises: ClientDisconnect.
    """
    before = {place: job.search.steps for place, job in live.items()}
    for job in live.values():
        job.search.until = job.search.steps + engine.most_drawn
    outcomes: Sequence[Answer | Exception]
    try:
        left_s = await engine.batcher.wait_for_room(call.tenant, rows=len(live), timeout_s=limit_s)
        (served,) = await serve_rows(call, {engine: [job.row for job in live.values()]}, left_s)
        outcomes = served.outcomes
    except RequestError as error:
        outcomes = [error] * len(live)
    engine.metrics.drew(sum(job.search.steps - before[place] for place, job in live.items()))
    return {
        place: failure(job, copy(outcome))
        for (place, job), outcome in zip(live.items(), outcomes, strict=True)
        if not isinstance(outcome, Answer)
    }
