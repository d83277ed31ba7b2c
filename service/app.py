"""The application: the only place that wires the parts together.

Models are loaded and probed before the application exists, so a bad one ends start-up before a port is open. The
lifespan starts their workers and drains them at the end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.types import Receive, Scope, Send

from service import __version__
from service.auth import Authenticator
from service.call import Service
from service.endpoints import forecast, health, models, sentiment, step
from service.endpoints.stream import Streams
from service.engine import Engine, Engines
from service.errors import ManifestError
from service.http import BodyRoute, RequestScope, install_error_handlers
from service.metrics import Metrics, ModelMetrics
from service.probe import probe
from service.repository import find_versions, load_model
from service.sessions import Sessions
from service.settings import Settings
from service.state.token import KeyRing, Sealer, load_or_create_key
from service.warmup import warm

log = logging.getLogger("baton.app")

BODY_ENDPOINTS = (sentiment, forecast, step)
DESCRIPTION = """Recurrent models with the state as a value: a step takes a sealed state token and returns the next one,
so any replica can take the next step, sending a request again is safe, and using a token twice is a fork."""


def create_app(settings: Settings, *, clock: Callable[[], float] = time.time) -> FastAPI:
    """Return the service over the models of `settings.models_dir`; `clock` (seconds since 1970) dates the tokens.

    Raises: ManifestError, DeviceUnavailable or SettingsError when a model or a setting will not do.
    """
    service = _build_service(settings, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for engine in service.engines.all:
            engine.batcher.start()
        gc.collect()
        gc.freeze()  # what lives as long as the service need not be looked through again: that took 40 ms at a time
        yield
        await asyncio.gather(*(engine.batcher.drain() for engine in service.engines.all))
        log.info("drained")

    app = _Application(
        title="Baton",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    install_error_handlers(app)
    bearer = [Security(HTTPBearer(auto_error=False, description="A key of BATON_API_KEYS."))]  # for the document alone
    for endpoint in (*BODY_ENDPOINTS, models):
        app.include_router(endpoint.router, dependencies=bearer if settings.api_keys else [])
    app.include_router(health.router)
    return app


class _Application(FastAPI):
    """FastAPI with `RequestScope` around all of it, where nothing can fail unseen, and `Streams` beside it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._streams if scope["type"] == "websocket" else self._request_scope)(scope, receive, send)

    @cached_property
    def _streams(self) -> Streams:
        return Streams(self.state.service)

    @cached_property
    def _request_scope(self) -> RequestScope:
        routes = [route for endpoint in BODY_ENDPOINTS for route in endpoint.router.routes]
        bodies = [route for route in routes if isinstance(route, BodyRoute)]
        return RequestScope(super().__call__, self.state.service, bodies)


def _build_service(settings: Settings, clock: Callable[[], float]) -> Service:
    metrics = Metrics()
    for name, value in settings.limits().items():
        metrics.limits.labels(name).set(value)
    engines = Engines(_load_engines(settings, metrics))
    sessions = Sessions(settings, engines, _sealer(settings, clock))
    return Service(settings, engines, sessions, metrics, Authenticator(settings.api_keys))


def _load_engines(settings: Settings, metrics: Metrics) -> list[Engine]:
    engines = []
    for directory in find_versions(settings.models_dir):
        started = time.perf_counter()
        threads = settings.worker_share(settings.intra_op_threads)
        model = load_model(directory, device=settings.device, intra_op_threads=threads)
        manifest = model.manifest
        if manifest.streamable and manifest.state_bytes > settings.max_state_bytes:
            message = f"a session has {manifest.state_bytes} bytes; BATON_MAX_STATE_BYTES is {settings.max_state_bytes}"
            raise ManifestError(model.file, "states", message)
        engine = Engine(model, settings, ModelMetrics(metrics, manifest.name, manifest.version))
        probe(engine)
        warm(engine, settings)
        metrics.model_info.labels(manifest.name, manifest.version, manifest.task).set(1)
        elapsed_ms = 1e3 * (time.perf_counter() - started)
        where = model.session.device
        log.info(
            "loaded %s %s (%s) on %s in %.0f ms", manifest.name, manifest.version, manifest.task, where, elapsed_ms
        )
        engines.append(engine)
    return engines


def _sealer(settings: Settings, clock: Callable[[], float]) -> Sealer:
    keys = [key.get_secret_value() for key in settings.token_keys]
    if not keys:
        key, created = load_or_create_key(settings.state_dir)
        keys = [key]
        if created:
            log.warning(
                "no token key is configured: made one in %s; replicas must share it, or set BATON_TOKEN_KEYS",
                settings.state_dir,
            )
    return Sealer(KeyRing(keys), ttl_s=settings.state_ttl_s, clock=clock)
