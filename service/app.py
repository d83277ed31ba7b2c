"""The application: the only place that wires the parts together.

Models are loaded and probed before the application exists, so a bad one ends start-up before a port is open. The
lifespan starts their workers, reloads the models directory and the API keys on SIGHUP, and drains at the end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI, Security
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.endpoints import health, models, sentiment, tag, transform, translate, upgrade
from service.endpoints.classify import endpoint as classify
from service.endpoints.forecast import endpoint as forecast
from service.endpoints.stateful import state, step, stream
from service.endpoints.stateful.generate import completions
from service.endpoints.stateful.generate import endpoint as generate
from service.endpoints.stateful.generate.completion_errors import PREFIX as COMPLETIONS
from service.endpoints.stateful.generate.completion_errors import completion_error
from service.endpoints.v2 import infer, metadata, repository, statistics
from service.endpoints.v2.errors import PREFIX, error_text
from service.engine.loader import Loader
from service.engine.orders import Orders
from service.engine.served import Served
from service.engine.versions import Tried
from service.errors import Reason, SettingsError, leaves
from service.metrics import Metrics
from service.page.files import documents_files, pages, playground_files
from service.page.openapi import complete, leave_out_unserved
from service.settings import Settings
from service.state.keys import KeyRing, load_or_create_key
from service.state.sequences import Sequences
from service.state.sessions import Sessions
from service.state.stores.choice import open_stores
from service.state.token import Sealer
from service.web.access_log import access_log
from service.web.api_keys import KnownKeys
from service.web.auth import Authenticator
from service.web.context import Rates, Service, Tracer
from service.web.dispatch import WEBSOCKET, Dispatcher
from service.web.door import DOOR, Door
from service.web.error_shapes import SHAPES, ErrorAnswers
from service.web.middleware import RequestScope
from service.web.origins import allow_origins
from service.web.routes import BodyRoute

log = logging.getLogger("baton.app")

BODY_ENDPOINTS = (
    sentiment,
    classify,
    tag,
    forecast,
    transform,
    translate,
    step,
    state,
    generate,
    completions,
    infer,
)
ERRORS = ErrorAnswers({**SHAPES, PREFIX: error_text, COMPLETIONS: completion_error})
DESCRIPTION = """Recurrent models with the state as a value: a step takes a sealed state token and returns the next one,
so any replica can take the next step, sending a request again is safe, and using a token twice is a fork.

The examples are calls of the models that come along, as far as they are served here. What to do about each error stands
in docs/errors.md."""
PAGE = "\n\n[Try the models on a page](/)."


def create_app(
    settings: Settings,
    *,
    tried: Collection[Tried] = (),
    orders: Orders | None = None,
    served: Served | None = None,
    keys: KnownKeys | None = None,
    clock: Callable[[], float] = time.time,
    log_request: Callable[[str], None] | None = access_log.info,
    tracer: Tracer | None = None,
) -> FastAPI:
    """Return the service over the models of `settings.models_dir`; `clock` (seconds since 1970) dates the tokens.

    Versions in `tried` have had their trial; the others get it here. With `orders` models can be loaded and unloaded by
    those who have an admin key. What other processes serve stands in `served`, and is served here then; `keys` are the
    API keys that they know, which are read where none are given. `log_request` takes the line of each request, `tracer`
    its trace.

    Raises: ManifestError, DeviceUnavailable or SettingsError when a model or a setting will not do.
    """
    keys = keys or KnownKeys(settings)
    service = _build_service(settings, tried, orders, served, keys, clock, log_request, tracer)
    loader = service.loader

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Door]]:
        door = Door(service, _body_routes(), ERRORS)
        loader.start()
        following = asyncio.create_task(loader.follow())
        with (
            _on_hangup(partial(_reload, keys, loader)),
            nullcontext() if orders is None else orders.followed(loader.carry_out),
        ):
            # What the door refuses passes no middleware.
            yield {} if app.user_middleware or settings.cors_origins else {DOOR: door}
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        await loader.drain()
        await service.sessions.close()
        if tracer is not None:
            await tracer.close()
        log.info("drained")

    app = _Application(
        title="Baton",
        version=__version__,
        description=DESCRIPTION + PAGE if settings.shows_page else DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    _include_routers(app, settings, takes_orders=orders is not None)
    return app


def _include_routers(app: FastAPI, settings: Settings, *, takes_orders: bool) -> None:
    asks = app.state.service.authenticator.asks
    bearer = [Security(HTTPBearer(auto_error=False, description="An API key."))] if asks else []  # for the document
    # Statistics before metadata: /v2/models/stats names no model.
    for endpoint in (*BODY_ENDPOINTS, models, repository, statistics, metadata):
        app.include_router(endpoint.router, dependencies=bearer)
    if takes_orders:
        admin = HTTPBearer(auto_error=False, scheme_name="Admin", description="An admin key.")
        app.include_router(repository.admin_router, dependencies=[Security(admin)])
    app.include_router(health.router)
    app.include_router(metadata.health)
    app.include_router(upgrade.router)
    app.include_router(pages(_files(settings)))


def _files(settings: Settings) -> dict[str, Path]:
    return {**documents_files(), **(playground_files() if settings.shows_page else {})}


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Have SIGHUP call `act` on the event loop, at once if it came before."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, act)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        loop.remove_signal_handler(signal.SIGHUP)


class _Application(FastAPI):
    """FastAPI whose requests and WebSockets all pass the same middleware, that which was added to it too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)  # FastAPI's looks for telemetry in the environment first

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi())
        engines = self.state.service.engines
        names = [engine.manifest.name for engine in engines.latest]
        served = {name: [engine.manifest.version for engine in engines.versions(name)] for name in names}
        return leave_out_unserved(self.openapi_schema, served)

    def build_middleware_stack(self) -> ASGIApp:
        service: Service = self.state.service
        handlers: dict[tuple[str, str], ASGIApp] = {("POST", route.path): route.serve for route in _body_routes()}
        handlers[WEBSOCKET, stream.PATH] = stream.Streams(service)
        app: ASGIApp = Dispatcher(handlers, AsyncExitStackMiddleware(self.router))
        for added in reversed(self.user_middleware):
            app = added.cls(app, *added.args, **added.kwargs)
        routes = [*health.router.routes, *metadata.health.routes]
        own = {route.path for route in routes if isinstance(route, APIRoute)}
        assert self.openapi_url is not None
        scoped = RequestScope(app, service, ERRORS, {*own, *_files(service.settings), self.openapi_url})
        origins = service.settings.cors_origins
        return allow_origins(scoped, origins) if origins else scoped


def _body_routes() -> list[BodyRoute]:
    routes = [route for endpoint in BODY_ENDPOINTS for route in endpoint.router.routes]
    return [route for route in routes if isinstance(route, BodyRoute)]


def _build_service(
    settings: Settings,
    tried: Collection[Tried],
    orders: Orders | None,
    served: Served | None,
    keys: KnownKeys,
    clock: Callable[[], float],
    log_request: Callable[[str], None] | None,
    tracer: Tracer | None,
) -> Service:
    metrics = Metrics()
    for name, value in settings.limits().items():
        metrics.limits.labels(name).set(value)
    for error in leaves():  # at 0 from the start: a query sees the first of a kind as a rise, not as a new series
        metrics.rejected.labels(error.code)
        metrics.item_errors.labels(error.code)
    for reason in get_args(Reason):
        metrics.tokens_rejected.labels(reason)
    unloaded = frozenset if orders is None else orders.unloaded
    loader = Loader(settings, metrics, clock, tried, unloaded, served)
    sealer, stores = _sealer(settings, clock), open_stores(settings, metrics, clock)
    sessions = Sessions(settings, loader.engines, sealer, stores)
    sequences = Sequences(settings, loader.engines, sessions, stores)
    authenticator = Authenticator(keys, clock)
    rates = _open_rates(settings, metrics)
    return Service(settings, loader, sessions, sequences, metrics, authenticator, orders, log_request, tracer, rates)


def _open_rates(settings: Settings, metrics: Metrics) -> Rates | None:
    if not settings.rate_limit:
        return None
    from service.web.rates import TenantRates  # which takes a tenth of a second to import

    return TenantRates(settings, metrics)


def _reload(keys: KnownKeys, loader: Loader) -> None:
    """Read the keys again, and look at the models; where one cannot be, the other is done."""
    try:
        keys.reread()
    except SettingsError as failure:
        log.error("the API keys stay as they were: %s", failure)
    else:
        log.info("API keys read again: %d", len(keys.by_id))
    loader.ask()


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
    return Sealer(KeyRing(keys), ttl_s=settings.state_ttl_s, skew_s=settings.clock_skew_s, clock=clock)
