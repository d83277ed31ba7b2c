"""One request's items on their way: prepared, run together, shown; each fails alone.

It knows engines, rows and results, not what a task's items look like. Invariant: the answer has one result for each
item of the request, in its order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from service.batching import Served, Timing
from service.engine import Answer, Engine, Row
from service.errors import BatchTooLarge, EmptyInput, InternalError, RequestError, StateError
from service.http import Reply, service_of
from service.wire import BatchRequest, Rejected


@dataclass(frozen=True, slots=True)
class Job:
    """One item that is ready to run, and how its answer is shown."""

    engine: Engine
    row: Row
    show: Callable[[Answer], dict[str, Any]]


Prepare = Callable[[Any], Job]


async def answer_items(request: Request, body: BatchRequest, engine: Engine, prepare: Prepare) -> Reply:
    """Answer every item of `body`: `prepare` makes its job, and may refuse it by raising a RequestError.

    Raises: EmptyInput for no items, BatchTooLarge for too many, and what the batcher raises for the request as a whole.
    """
    started = time.perf_counter()
    service = service_of(request)
    slots = body.slots()
    _check_count(len(slots), body.items_field, service.settings.max_items)
    jobs = [_attempt(prepare, slot, f"{body.items_field}[{index}]") for index, slot in enumerate(slots)]
    outcomes, timing = await _run(jobs, service.settings.timeout_ms / 1000)
    results: list[dict[str, Any]] = []
    errors: list[RequestError] = []
    shown: list[dict[str, Any]] = []
    for index, (slot, job, outcome) in enumerate(zip(slots, jobs, outcomes, strict=True)):
        head = {"index": index, "id": getattr(slot, "id", None)}
        if isinstance(job, Job) and isinstance(outcome, Answer):
            results.append({**head, **job.show(outcome)})
        else:
            error = outcome if isinstance(outcome, RequestError) else InternalError("the model failed on this input")
            errors.append(error)
            shown.append({"field": f"{body.items_field}[{index}]", **error.body()})
            results.append({**head, "error": shown[-1]})
    total_s = time.perf_counter() - started
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
    status = 200
    if len(errors) == len(results):
        status = errors[0].status
        content["error"] = {**shown[0], "request_id": request.state.request_id}
    return Reply(content, status, timing, total_s, _log_fields(len(results), errors))


def _check_count(count: int, field: str, most: int) -> None:
    if not count:
        raise EmptyInput(f"{field} is empty; give at least one item", field=field)
    if count > most:
        raise BatchTooLarge(f"{count} items; at most {most} in one request", field=field, limit=most)


def _attempt(prepare: Prepare, slot: Any, field: str) -> Job | RequestError:
    if isinstance(slot, Rejected):
        return slot.error
    try:
        return prepare(slot)
    except RequestError as error:
        error.field = f"{field}.{error.field}" if error.field else field
        return error


async def _run(jobs: Sequence[Job | RequestError], timeout_s: float) -> tuple[list[Answer | Exception | None], Timing]:
    outcomes: list[Answer | Exception | None] = [job if isinstance(job, RequestError) else None for job in jobs]
    by_engine: dict[Engine, list[tuple[int, Row]]] = {}
    for index, job in enumerate(jobs):
        if isinstance(job, Job):
            by_engine.setdefault(job.engine, []).append((index, job.row))
    served = await _serve({engine: [row for _, row in part] for engine, part in by_engine.items()}, timeout_s)
    for part, one in zip(by_engine.values(), served, strict=True):
        for (index, _), outcome in zip(part, one.outcomes, strict=True):
            outcomes[index] = outcome
    return outcomes, _merged([one.timing for one in served])


async def _serve(rows: dict[Engine, list[Row]], timeout_s: float) -> list[Served[Answer]]:
    """Run rows on their engines; all engines admit all of them, or nothing is run."""
    for engine, part in rows.items():
        engine.batcher.admit(len(part))
    submissions = [(engine, engine.batcher.enqueue(part, timeout_s=timeout_s)) for engine, part in rows.items()]
    try:
        return [await engine.batcher.answer(submission) for engine, submission in submissions]
    finally:
        for _, submission in submissions:
            submission.abandon()


def _merged(timings: Sequence[Timing]) -> Timing:
    return Timing(
        queue_s=max((t.queue_s for t in timings), default=0.0),
        run_s=max((t.run_s for t in timings), default=0.0),
        rows=sum(t.rows for t in timings),
        cells=sum(t.cells for t in timings),
        padded_cells=sum(t.padded_cells for t in timings),
        batch_rows=max((t.batch_rows for t in timings), default=0),
    )


def _log_fields(items: int, errors: Sequence[RequestError]) -> str:
    counts = Counter(f"{e.code}:{e.reason}" if isinstance(e, StateError) else e.code for e in errors)
    refused = " ".join(f"{code}*{count}" for code, count in counts.items())
    return f"items={items} failed={len(errors)} {refused}".rstrip()
