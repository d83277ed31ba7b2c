"""GET /v2/models/stats, /v2/models/{name}[/versions/{version}]/stats: counts and times since the start of the service.

They are read from the metrics, so they are of all workers and of all that was asked, not of this protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.endpoints.v2.errors import error_texts
from service.endpoints.v2.examples import ModelName, ModelVersion
from service.engine.engine import Engine
from service.metrics import FAIL, SUCCESS
from service.web.context import Service, caller_of
from service.web.error_examples import CALLER_ERRORS, UNKNOWN_MODEL

router = APIRouter(tags=["open inference protocol"], responses=error_texts(*CALLER_ERRORS))

TIMES, QUEUE, ROWS, LAST = (
    "baton_inference_seconds",
    "baton_queue_seconds",
    "baton_batch_rows",
    "baton_last_run_timestamp_seconds",
)
SAMPLES = (LAST, *(f"{name}_{part}" for name in (TIMES, QUEUE, ROWS) for part in ("count", "sum")))


class Duration(BaseModel):
    count: int = 0
    ns: int = 0


class InferenceStats(BaseModel):
    """Requests and their times.

    What is not measured apart takes 0 ns, with the count of what it is a part of: perf_analyzer wants them alike. There
    is no cache.
    """

    success: Duration
    fail: Duration = Field(description="requests of which a row failed, and those whose deadline passed")
    queue: Duration = Field(description="of all requests, until their first run")
    compute_infer: Duration = Field(description="of all requests, from there to their answer")
    compute_input: Duration = Field(description="not measured apart from compute_infer")
    compute_output: Duration = Field(description="not measured apart from compute_infer")
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class VersionStats(BaseModel):
    name: str
    version: str
    last_inference: int = Field(description="when the last run ended, in milliseconds since 1970; 0 before the first")
    inference_count: int = Field(description="rows run")
    execution_count: int = Field(description="runs, in each of which rows of several requests may be")
    inference_stats: InferenceStats
    batch_stats: list[Any] = Field(default=[], description="empty: runs are not counted by their exact size")


class Statistics(BaseModel):
    model_stats: list[VersionStats]


@router.get("/v2/models/stats", response_model=Statistics, summary="Statistics of all models")
async def all_statistics(request: Request) -> Statistics:
    """Return the statistics of every loaded version."""
    service = caller_of(request.scope).service
    return await _statistics(service, service.engines.all)


@router.get(
    "/v2/models/{name}/stats",
    response_model=Statistics,
    responses=error_texts(UNKNOWN_MODEL),
    summary="Statistics of a model",
)
async def model_statistics(request: Request, name: ModelName) -> Statistics:
    """Return the statistics of every loaded version of a model."""
    service = caller_of(request.scope).service
    service.engines.get(name)
    return await _statistics(service, service.engines.versions(name))


@router.get(
    "/v2/models/{name}/versions/{version}/stats",
    response_model=Statistics,
    responses=error_texts(UNKNOWN_MODEL),
    summary="Statistics of a version",
)
async def version_statistics(request: Request, name: ModelName, version: ModelVersion) -> Statistics:
    """Return the statistics of a loaded version of a model."""
    service = caller_of(request.scope).service
    return await _statistics(service, [service.engines.get(name, version)])


async def _statistics(service: Service, engines: list[Engine]) -> Statistics:
    values = await service.metrics.read(*SAMPLES)
    return Statistics(model_stats=[_version_stats(values, engine) for engine in engines])


def _version_stats(values: dict[tuple[str, ...], float], engine: Engine) -> VersionStats:
    name, version = engine.manifest.name, engine.manifest.version

    def value(sample: str, *labels: str) -> float:
        return values.get((sample, name, *labels, version), 0.0)

    success, fail = (_duration(value, TIMES, outcome) for outcome in (SUCCESS, FAIL))
    queue = _duration(value, QUEUE)
    in_runs = Duration(count=queue.count, ns=max(0, success.ns + fail.ns - queue.ns))
    within = Duration(count=queue.count)
    return VersionStats(
        name=name,
        version=version,
        last_inference=round(1000 * value(LAST)),
        inference_count=round(value(f"{ROWS}_sum")),
        execution_count=round(value(f"{ROWS}_count")),
        inference_stats=InferenceStats(
            success=success,
            fail=fail,
            queue=queue,
            compute_infer=in_runs,
            compute_input=within,
            compute_output=within,
        ),
    )


def _duration(value: Callable[..., float], name: str, *labels: str) -> Duration:
    return Duration(count=round(value(f"{name}_count", *labels)), ns=round(1e9 * value(f"{name}_sum", *labels)))
