"""POST /v1/regime: series in, labels with scores out; the endpoint of a task that the service does not have."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import APIRouter
from pydantic import Field

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import EmptyInput, attempt
from service.web.answers import Reply
from service.web.batch import Job, reply, run_jobs, show_each
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.routes import BodyRoute
from service.web.schema import BatchAnswer, Result, RunRequest

router = APIRouter(route_class=BodyRoute, tags=["batch"], responses=run_errors("series"))


class RegimeRequest(RunRequest):
    task: ClassVar[Task] = "regime"
    items_field: ClassVar[str] = "series"

    series: Annotated[list[list[float]], Field(min_length=1)]


class Regime(Result):
    label: str
    scores: dict[str, float]


@router.post("/v1/regime", response_model=BatchAnswer[Regime], summary="Tell regimes")
async def regime(call: Call, body: RegimeRequest) -> Reply:
    """Label each series."""
    engines = call.service.engines
    engine = engines.for_task(engines.name(body.model, body.task), body.task)

    jobs = [attempt(_read, series, engine) for series in body.series]
    outcomes, timing = await run_jobs(call, body, jobs)
    results = await show_each(jobs, outcomes, _shown)
    return reply(call, body, engine, results, timing)


def _read(series: list[float], engine: Engine) -> Job:
    if not series:
        raise EmptyInput("the series is empty; give at least one value")
    return Job(engine, Row(np.array(series, np.float32)), None)


def _shown(job: Job, answer: Answer) -> dict[str, Any]:
    output = job.engine.manifest.outputs[0]
    assert output.labels is not None
    scores = dict(zip(output.labels, answer.outputs[output.name].tolist(), strict=True))
    return {"label": max(scores, key=scores.__getitem__), "scores": scores}
