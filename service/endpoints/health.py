"""GET /healthz, /readyz and /metrics: for orchestrators and Prometheus, without an API key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from service.errors import Draining, NotReady
from service.web.context import caller_of
from service.web.error_examples import READY_ERRORS, error_responses

EXAMPLE = """# HELP baton_requests_total Requests answered.
# TYPE baton_requests_total counter
baton_requests_total{endpoint="/v1/sentiment",status="200"} 1.0
"""
router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: str


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health, summary="Alive?")
async def healthz() -> dict[str, str]:
    """Answer as long as the process does."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Health, responses=error_responses(*READY_ERRORS), summary="Ready for work?")
async def readyz(request: Request) -> dict[str, str]:
    """Answer 200 while every model takes work; 503 while draining, or with the names of those whose worker stopped."""
    engines = caller_of(request.scope).service.engines
    if any(engine.batcher.draining for engine in engines.all):
        raise Draining("the service is shutting down", retry_after_ms=1000)
    if engines.stopped:
        raise NotReady(f"no worker for {', '.join(engines.stopped)}", retry_after_ms=1000)
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE}}}},
    summary="Prometheus metrics",
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    return Response(await caller_of(request.scope).service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
