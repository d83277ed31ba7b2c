"""The service in the test's own process, at a time that the test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from service.app import create_app
from service.contract.files import read_manifest
from service.engine.costs import Costs
from service.engine.engine import Engine
from service.engine.probe import probe
from service.engine.versions import Found, Tried, load_tried
from service.metrics import Metrics
from service.model.repository import find_versions
from service.settings import Settings
from service.web.context import Tracer


class Clock:
    """Seconds since 1970, which pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def vouched(models_dir: Path) -> list[Tried]:
    """Say of every version that it came through its trial, which need not be done for models known to be sound."""
    found = Found(Costs(1, 0), "cpu", one_row=False)
    return [Tried(directory, read_manifest(directory), "all", found) for directory in find_versions(models_dir)]


def load_here(models_dir: Path, **settings: object) -> list[Engine]:
    """Do in this process what a trial does in its own."""
    read = Settings(models_dir=models_dir, **settings)  # type: ignore[arg-type]
    engines = [load_tried(tried, read, Metrics()) for tried in vouched(models_dir)]
    for engine in engines:
        probe(engine)
    return engines


@asynccontextmanager
async def serve_here(
    settings: Settings, clock: Clock, tracer: Tracer | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, FastAPI]]:
    app = create_app(settings, tried=vouched(settings.models_dir), clock=clock, tracer=tracer)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://baton") as client,
    ):
        yield client, app
