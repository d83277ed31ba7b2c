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
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from service.batching.submission import Served, Submission, Timing
from service.engine.engine import Answer, Engine, Row
from service.errors import InternalError, InvalidRequest, RequestError, StateError
from service.web.answers import Reply
from service.web.context import Call
from service.web.schema import BatchRequest, Rejected, RunRequest


@dataclass(slots=True)
class Job:
    """One item that is ready to run."""

    engine: Engine
    row: Row
    member: str | None  # of the item, that holds its input; None where the item itself is the input


NO_RUN = Timing(queue_s=0.0, run_s=0.0, rows=0, cells=0, padded_cells=0, batch_rows=0)
J = TypeVar("J", bound=Job)
Outcomes = list[Answer | RequestError]
Results = Sequence[dict[str, Any] | RequestError]


async def run_jobs(call: Call, body: RunRequest, jobs: Sequence[Job | RequestError]) -> tuple[Outcomes, Timing]:
    """Run the jobs of one request together; return each one's answer, or why there is none, in their order.

    Raises: InvalidRequest for a longer wait than may be; what `run_within` raises.
    """
    return await run_within(call, jobs, _timeout_s(body, call.service.settings.timeout_ms))


async def run_within(call: Call, jobs: Sequence[Job | RequestError], timeout_s: float) -> tuple[Outcomes, Timing]:
    """Do the same for a request whose runs must begin within `timeout_s`.

    Raises: what the batcher raises for the request as a whole; ClientDisconnect when the client left meanwhile.
    """
    rows: dict[Engine, list[Row]] = {}
    for job in jobs:
        if isinstance(job, Job):
            rows.setdefault(job.engine, []).append(job.row)
    served = await _serve(call, rows, timeout_s) if rows else []
    answers = {engine: iter(one.outcomes) for engine, one in zip(rows, served, strict=True)}
    outcomes: Outcomes = []
    for job in jobs:
        outcome: Any = next(answers[job.engine]) if isinstance(job, Job) else job
        outcomes.append(outcome if isinstance(outcome, Answer) else _failure(job, outcome))
    return outcomes, _merged([one.timing for one in served])


def show_each(
    jobs: Sequence[J | RequestError], outcomes: Outcomes, show: Callable[[J, Answer], dict[str, Any]]
) -> Results:
    """Return what is shown of each answer; what is refused stays so."""
    results: list[dict[str, Any] | RequestError] = []
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, RequestError):
            results.append(outcome)
        else:
            assert not isinstance(job, RequestError)  # what was refused has no answer
            results.append(show(job, outcome))
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
    total_s = time.perf_counter() - call.started
    content: dict[str, Any] = {
        "model": engine.manifest.name,
        "version": engine.manifest.version,
        "results": shown,
        "summary": {"ok": len(shown) - len(errors), "failed": len(errors)},
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
    for error in errors:
        call.service.metrics.item_errors.labels(error.code).inc()
        if isinstance(error, StateError):
            call.service.metrics.tokens_rejected.labels(error.reason).inc()
    status = 200
    if len(errors) == len(shown):
        status = errors[0].status
        content["error"] = {**errors[0].body(), "request_id": call.request_id}
    call.log = _log_fields(len(shown), errors)
    return Reply(content, status, timing, total_s)


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
        else:
            if not isinstance(item, Rejected):
                outcome.field = _within(f"{body.items_field}[{index}]", outcome.field)
            errors.append(outcome)
            shown.append(head | {"error": outcome.body()})
    return shown, errors


def _timeout_s(body: RunRequest, max_ms: int) -> float:
    if body.timeout_ms is None:
        return max_ms / 1000
    if body.timeout_ms > max_ms:
        message = f"{body.timeout_ms} ms; at most {max_ms} here"
        raise InvalidRequest(message, field="timeout_ms", limit=max_ms)
    return body.timeout_ms / 1000


def _failure(job: Job | RequestError, outcome: Exception) -> RequestError:
    """Return why a job has no answer: it was refused, or its run failed."""
    if isinstance(job, RequestError):
        return job
    error = outcome if isinstance(outcome, RequestError) else InternalError("the model failed on this input")
    error.field = error.field or job.member
    return error


def _within(place: str, member: str | None) -> str:
    return f"{place}.{member}" if member else place


async def _serve(call: Call, rows: dict[Engine, list[Row]], timeout_s: float) -> list[Served[Answer]]:
    """Run rows on their engines; all engines admit all of them, or nothing is run.

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
            submissions.append(engine.batcher.submit(part, tenant=call.tenant, timeout_s=timeout_s))
            answers.append(submissions[-1].future)
        return [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)
    finally:
        peer.leavers.discard(leave)
        for submission in submissions:
            submission.end()


def _merged(timings: Sequence[Timing]) -> Timing:
    if len(timings) == 1:
        return timings[0]
    return Timing(
        queue_s=max((t.queue_s for t in timings), default=0.0),
        run_s=max((t.run_s for t in timings), default=0.0),
        rows=sum(t.rows for t in timings),
        cells=sum(t.cells for t in timings),
        padded_cells=sum(t.padded_cells for t in timings),
        batch_rows=max((t.batch_rows for t in timings), default=0),
    )


def _log_fields(items: int, errors: Sequence[RequestError]) -> str:
    if not errors:
        return f"items={items} failed=0"
    counts = Counter(error.log_code for error in errors)
    refused = " ".join(f"{code}*{count}" for code, count in counts.items())
    return f"items={items} failed={len(errors)} {refused}".rstrip()
