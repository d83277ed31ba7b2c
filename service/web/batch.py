"""One request's items on their way: run together, and answered in their order; each fails alone.

It knows engines, rows and results, not what a task's items look like. Invariant: the answer has one result for each
item of the request, in its order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import ClientDisconnect

from service.batching.submission import Served, Submission, Timing
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import BatchTooLarge, InternalError, InvalidRequest, RequestError, StateError, attempt
from service.web.answers import Reply
from service.web.context import Call
from service.web.schema import BatchRequest, Rejected, RunRequest
from service.web.turns import in_turns


@dataclass(slots=True)
class Job:
    """One item that is ready to run."""

    engine: Engine
    row: Row
    member: str | None  # of the item, that holds its input; None where the item itself is the input


@dataclass(slots=True)
class Partial:
    """What there is of an item's result, and why there is no more."""

    shown: dict[str, Any]
    error: RequestError


NO_RUN = Timing()
MOST_STATE_BYTES = 2**28  # of the sequences of one request: each has its own, however large a condition makes it
J = TypeVar("J", bound=Job)
Outcomes = list[Answer | RequestError]
Results = Sequence[dict[str, Any] | RequestError | Partial]


@dataclass(frozen=True)
class Plan(Generic[J]):
    """What a request asks of `engine`: a job for each item, or why it is none, and what is shown of a job's answer."""

    engine: Engine
    jobs: Sequence[J | RequestError]
    show: Callable[[J, Answer], dict[str, Any]]


async def carry_out(call: Call, body: RunRequest, plan: Plan[J]) -> Reply:
    """Answer a request whose items are a run each. Raises: what `run_jobs` raises."""
    outcomes, timing = await run_jobs(call, body, plan.jobs)
    return reply(call, body, plan.engine, await show_each(plan.jobs, outcomes, plan.show), timing)


def carry_out_alone(plan: Plan[J]) -> list[dict[str, Any] | RequestError]:
    """Return the results of a plan that shares its engine with no other, and so neither waits nor is refused."""
    answers = iter(plan.engine.run_alone([job.row for job in plan.jobs if not isinstance(job, RequestError)]))
    results: list[dict[str, Any] | RequestError] = []
    for job in plan.jobs:
        if isinstance(job, RequestError):
            results.append(job)
            continue
        answer = next(answers)
        shown = attempt(plan.show, job, answer) if isinstance(answer, Answer) else failure(job, answer)
        results.append(failure(job, shown) if isinstance(shown, RequestError) else shown)
    return results


async def run_jobs(call: Call, body: RunRequest, jobs: Sequence[Job | RequestError]) -> tuple[Outcomes, Timing]:
    """Run the jobs of one request together; return each one's answer, or why there is none, in their order.

    Raises: what `timeout_s` and `run_within` raise.
    """
    return await run_within(call, jobs, timeout_s(body, call.service.settings.timeout_ms))


async def run_within(call: Call, jobs: Sequence[Job | RequestError], limit_s: float) -> tuple[Outcomes, Timing]:
    """Do the same for a request whose runs must begin within `limit_s`.

    Raises: what the batcher raises for the request as a whole; ClientDisconnect when the client left meanwhile.
    """
    rows: dict[Engine, list[Row]] = {}
    for job in jobs:
        if isinstance(job, Job):
            rows.setdefault(job.engine, []).append(job.row)
    served = await serve_rows(call, rows, limit_s) if rows else []
    answers = {engine: iter(one.outcomes) for engine, one in zip(rows, served, strict=True)}
    outcomes: Outcomes = []
    for job in jobs:
        outcome: Any = next(answers[job.engine]) if isinstance(job, Job) else job
        outcomes.append(outcome if isinstance(outcome, Answer) else failure(job, outcome))
    return outcomes, merged([one.timing for one in served])


async def show_each(
    jobs: Sequence[J | RequestError], outcomes: Outcomes, show: Callable[[J, Answer], dict[str, Any]]
) -> Results:
    """Return what is shown of each answer, or why it cannot be; what is refused stays so.

    Other requests have their turn where showing takes long.
    """
    results: list[Any] = []
    async for job, outcome in in_turns(zip(jobs, outcomes, strict=True)):
        if isinstance(outcome, RequestError):
            results.append(outcome)
        else:
            assert not isinstance(job, RequestError)  # what was refused has no answer
            shown = attempt(show, job, outcome)
            results.append(failure(job, shown) if isinstance(shown, RequestError) else shown)
    return results


def reply(
    call: Call,
    body: BatchRequest,
    engine: Engine,
    results: Results,
    timing: Timing = NO_RUN,
) -> Reply:
    """Return the answer to `body`: the results of its items, and why others were refused before."""
    shown, errors = _shown(call, body, results)
    total_s = time.monotonic() - call.started
    content: dict[str, Any] = {
        "model": engine.manifest.name,
        "version": engine.manifest.version,
        "results": shown,
        "summary": {"ok": len(shown) - len(errors), "failed": len(errors)},
        **show_cost(timing, total_s),
    }
    note(call, len(shown), errors)
    status = 200
    if len(errors) == len(shown):
        status = errors[0].status
        content["error"] = {**errors[0].body(), "request_id": call.request_id}
    return Reply(content, status, timing, total_s)


def show_cost(timing: Timing, total_s: float) -> dict[str, Any]:
    """Return what is shown of the runs of a request, and of the time that it took."""
    return {
        "usage": {
            "rows": timing.rows,
            "steps": timing.cells,
            "padded_steps": timing.padded_cells,
            "batch_rows": timing.batch_rows,
        },
        "timing_ms": {
            "queue": round(1e3 * timing.queue_s, 3),
            "run": round(1e3 * timing.run_s, 3),
            "total": round(1e3 * total_s, 3),
        },
    }


def note(call: Call, items: int, errors: Sequence[RequestError]) -> None:
    """Count the errors of a request of so many items, and note for the log how it went."""
    for error in errors:
        call.service.metrics.item_errors.labels(error.code).inc()
        if isinstance(error, StateError):
            call.service.metrics.tokens_rejected.labels(error.reason).inc()
    call.facts = {"items": items, "failed": len(errors)}
    if errors:
        call.facts["codes"] = Counter(error.log_code for error in errors)


def _shown(call: Call, body: BatchRequest, results: Results) -> tuple[list[dict[str, Any]], list[RequestError]]:
    """Return what is shown of each item in its place, and the errors among them."""
    outcomes: list[tuple[Any, Any]] = list(zip(getattr(body, body.items_field), results, strict=True))
    for index, rejected in call.rejected.items():
        outcomes.insert(index, (rejected, rejected.error))
    shown: list[dict[str, Any]] = []
    errors: list[RequestError] = []
    for index, (item, outcome) in enumerate(outcomes):
        head = {"index": index, "id": getattr(item, "id", None)}
        if isinstance(outcome, dict):
            shown.append(head | outcome)
            continue
        known, error = (outcome.shown, outcome.error) if isinstance(outcome, Partial) else ({}, outcome)
        if not isinstance(item, Rejected):
            error.field = within(f"{body.items_field}[{index}]", error.field)
        errors.append(error)
        shown.append(head | {"error": error.body()} | known)
    return shown, errors


def timeout_s(body: RunRequest, max_ms: int) -> float:
    """Return how long the runs of a request may be waited for.

    Raises: InvalidRequest for longer than may be.
    """
    if body.timeout_ms is None:
        return max_ms / 1000
    if body.timeout_ms > max_ms:
        message = f"{body.timeout_ms} ms; at most {max_ms} here"
        raise InvalidRequest(message, field="timeout_ms", limit=max_ms)
    return body.timeout_ms / 1000


def failure(job: Job | RequestError, outcome: Exception) -> RequestError:
    """Return why a job has no answer: it was refused, or its run failed."""
    if isinstance(job, RequestError):
        return job
    error = outcome if isinstance(outcome, RequestError) else InternalError("the model failed on this input")
    error.field = error.field or job.member
    return error


def within(place: str, member: str | None) -> str:
    """Return the place of a member of what stands at `place`, or of that itself."""
    return f"{place}.{member}" if member else place


def check_states(states: Sequence[bytes | None], copies: int, field: str) -> None:
    """Check what so many copies of the states of one request take while it is under way; `field` is what asks for it.

    Raises: BatchTooLarge.
    """
    size = copies * sum(len(state or b"") for state in states)
    if size > MOST_STATE_BYTES:
        message = f"its states take {size} bytes; at most {MOST_STATE_BYTES} in one request: send fewer"
        raise BatchTooLarge(message, field=field, limit=MOST_STATE_BYTES)


async def serve_rows(call: Call, rows: dict[Engine, list[Row]], limit_s: float) -> list[Served[Answer]]:
    """Run rows on their engines within `limit_s`; all engines admit all of them, or nothing is run.

    Raises: what `Batcher.submit` and its answer raise; ClientDisconnect when the client left meanwhile.
    """
    answers: list[asyncio.Future[Served[Answer]]] = []
    submissions: list[Submission[Row, Answer]] = []

    def leave() -> None:
        for answer in answers:
            if not answer.done():
                answer.set_exception(ClientDisconnect())

    peer = call.peer
    if peer.left:
        raise ClientDisconnect
    peer.leavers.add(leave)
    try:
        for engine, part in rows.items():
            submissions.append(engine.batcher.submit(part, tenant=call.tenant, timeout_s=limit_s))
            answers.append(submissions[-1].future)
        served = [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)
        call.work.runs += [(engine, one.timing) for engine, one in zip(rows, served, strict=True)]
        return served
    except (RequestError, ClientDisconnect):
        now = time.monotonic()
        call.work.runs += [(engine, one.timing(now)) for engine, one in zip(rows, submissions, strict=False)]
        raise
    finally:
        peer.leavers.discard(leave)
        for submission in submissions:
            submission.end()


def merged(timings: Sequence[Timing]) -> Timing:
    """Return where the time of several submissions went that were under way together."""
    if len(timings) == 1:
        return timings[0]
    return Timing(
        submitted=min((t.submitted for t in timings), default=0.0),
        queue_s=max((t.queue_s for t in timings), default=0.0),
        run_s=max((t.run_s for t in timings), default=0.0),
        rows=sum(t.rows for t in timings),
        cells=sum(t.cells for t in timings),
        padded_cells=sum(t.padded_cells for t in timings),
        batch_rows=max((t.batch_rows for t in timings), default=0),
    )


def in_turn(one: Timing, other: Timing) -> Timing:
    """Return where the time went in two parts of the work, the first of which began first."""
    return Timing(
        submitted=one.submitted,
        queue_s=one.queue_s + other.queue_s,
        run_s=one.run_s + other.run_s,
        rows=one.rows + other.rows,
        cells=one.cells + other.cells,
        padded_cells=one.padded_cells + other.padded_cells,
        batch_rows=max(one.batch_rows, other.batch_rows),
    )
