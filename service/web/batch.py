"""One request's items on their way: prepared, run together where they are to be run, shown; each fails alone.

It knows engines, rows and results, not what a task's items look like. Invariant: the answer has one result for each
item of the request, in its order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect

from service.batching.submission import Served, Timing
from service.engine.engine import Answer, Engine, Row
from service.errors import InternalError, InvalidRequest, RequestError, StateError
from service.web.context import Call, Watch
from service.web.routes import Reply
from service.web.schema import BatchRequest, Rejected, RunRequest


@dataclass(slots=True)
class Job:
    """One item that is ready to run, and how its answer is shown."""

    engine: Engine
    row: Row
    show: Callable[[Answer], dict[str, Any]]
    member: str | None  # of the item, that holds its input; None where the item itself is the input


NO_RUN = Timing(queue_s=0.0, run_s=0.0, rows=0, cells=0, padded_cells=0, batch_rows=0)
Prepare = Callable[[Any], Job]
Carry = Callable[[Sequence[Job], Sequence[Answer]], Awaitable[Sequence[dict[str, Any] | RequestError]]]


async def answer_items(
    call: Call, body: RunRequest, engine: Engine, prepare: Prepare, carry: Carry | None = None
) -> Reply:
    """Run every item of `body` and answer it.

    `prepare` makes an item's job, and may refuse it by raising a RequestError; `carry` says what the results of the
    answered jobs have besides what is shown of them, or why they fail after all.

    Raises: what the batcher raises for the request as a whole.
    """
    timeout_s = _timeout_s(body, call.service.settings.timeout_ms)
    jobs = [_attempt(prepare, item) for item in getattr(body, body.items_field)]
    outcomes, timing = await _run(call, jobs, timeout_s)
    return reply(call, body, engine, await _show(jobs, outcomes, carry), timing)


def reply(
    call: Call,
    body: BatchRequest,
    engine: Engine,
    shown: Sequence[dict[str, Any] | RequestError],
    timing: Timing = NO_RUN,
) -> Reply:
    """Return the answer to `body`: what is `shown` for each of its items, and why others were refused before."""
    service, field = call.service, body.items_field
    outcomes: list[tuple[Any, Any]] = list(zip(getattr(body, field), shown, strict=True))
    for index, rejected in call.rejected.items():
        outcomes.insert(index, (rejected, rejected.error))
    results: list[dict[str, Any]] = []
    errors: list[RequestError] = []
    for index, (item, outcome) in enumerate(outcomes):
        head = {"index": index, "id": getattr(item, "id", None)}
        if isinstance(outcome, dict):
            results.append({**head, **outcome})
        else:
            if not isinstance(item, Rejected):
                outcome.field = _within(f"{field}[{index}]", outcome.field)
            errors.append(outcome)
            results.append({**head, "error": outcome.body()})
    total_s = time.perf_counter() - call.started
    content: dict[str, Any] = {
        "model": engine.manifest.name,
        "version": engine.manifest.version,
        "results": results,
        "summary": {"ok": len(results) - len(errors), "failed": len(errors)},
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
        service.metrics.item_errors.labels(error.code).inc()
        if isinstance(error, StateError):
            service.metrics.tokens_rejected.labels(error.reason).inc()
    status = 200
    if len(errors) == len(results):
        status = errors[0].status
        content["error"] = {**errors[0].body(), "request_id": call.request_id}
    call.log = _log_fields(len(results), errors)
    return Reply(content, status, timing, total_s)


def _timeout_s(body: RunRequest, most_ms: int) -> float:
    if body.timeout_ms is None:
        return most_ms / 1000
    if body.timeout_ms > most_ms:
        message = f"{body.timeout_ms} ms; at most {most_ms} here"
        raise InvalidRequest(message, field="timeout_ms", limit=most_ms)
    return body.timeout_ms / 1000


def _attempt(prepare: Prepare, item: Any) -> Job | RequestError:
    try:
        return prepare(item)
    except RequestError as error:
        return error


async def _show(
    jobs: Sequence[Job | RequestError], outcomes: Sequence[Answer | Exception | None], carry: Carry | None
) -> list[dict[str, Any] | RequestError]:
    """Return what is shown of each answer, or why there is none."""
    done = [
        (index, job, outcome)
        for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True))
        if isinstance(job, Job) and isinstance(outcome, Answer)
    ]
    carried: Sequence[dict[str, Any] | RequestError] = [{}] * len(done)
    if carry is not None:
        carried = await carry([job for _, job, _ in done], [answer for _, _, answer in done])
    shown: list[Any] = [
        _failure(job, outcome) if isinstance(job, Job) and not isinstance(outcome, Answer) else job
        for job, outcome in zip(jobs, outcomes, strict=True)
    ]
    for (index, job, answer), more in zip(done, carried, strict=True):
        shown[index] = {**job.show(answer), **more} if isinstance(more, dict) else more
    return shown


def _failure(job: Job, outcome: Exception | None) -> RequestError:
    """Return why a job has no answer."""
    error = outcome if isinstance(outcome, RequestError) else InternalError("the model failed on this input")
    error.field = error.field or job.member
    return error


def _within(place: str, member: str | None) -> str:
    return f"{place}.{member}" if member else place


async def _run(
    call: Call, jobs: Sequence[Job | RequestError], timeout_s: float
) -> tuple[list[Answer | Exception | None], Timing]:
    outcomes: list[Answer | Exception | None] = [job if isinstance(job, RequestError) else None for job in jobs]
    by_engine: dict[Engine, list[tuple[int, Row]]] = {}
    for index, job in enumerate(jobs):
        if isinstance(job, Job):
            by_engine.setdefault(job.engine, []).append((index, job.row))
    rows = {engine: [row for _, row in part] for engine, part in by_engine.items()}
    served = await _serve(call, rows, timeout_s) if rows else []
    for part, one in zip(by_engine.values(), served, strict=True):
        for (index, _), outcome in zip(part, one.outcomes, strict=True):
            outcomes[index] = outcome
    return outcomes, _merged([one.timing for one in served])


async def _serve(call: Call, rows: dict[Engine, list[Row]], timeout_s: float) -> list[Served[Answer]]:
    """Run rows on their engines; all engines admit all of them, or nothing is run.

    Raises: what `Batcher.submit` and its answer raise; ClientDisconnect when the client left meanwhile.
    """
    with ExitStack() as stack:
        answers = [
            stack.enter_context(engine.batcher.submit(part, timeout_s=timeout_s)) for engine, part in rows.items()
        ]

        def leave() -> None:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(ClientDisconnect())

        watch = Watch(call, leave)
        try:
            return [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)
        finally:
            watch.cancel()


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
