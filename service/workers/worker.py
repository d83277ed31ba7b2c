"""One process that serves: a whole service with models, queues and threads of its own, under uvicorn.

It knows uvicorn and the application, not the other workers. Invariant: it drains before it ends, also when the process
that started it has died.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from service.app import create_app
from service.engine.orders import Orders
from service.engine.served import Served
from service.engine.versions import Tried
from service.errors import SettingsError, StartupError
from service.metrics import Metrics
from service.settings import Settings
from service.state.token import token_chars
from service.web.access_log import RequestLog, access_log
from service.web.api_keys import KnownKeys
from service.web.clients import Clients
from service.web.context import Service, Tracer
from service.web.heads import HttpProtocol
from service.web.websocket import StreamProtocol
from service.workers.port import Board, Listener, Port
from service.workers.usage import PAGES, Usage

log = logging.getLogger("baton.workers")

DATA = 5  # the field of a process' pages that the limit is about, as proc(5) has them
RUNS_BYTES = 256 * 2**20
DRAIN_SPARE_S = 5  # after a body's time to arrive and a request's to wait; then clients that do not read are cut off


def _do_nothing() -> None: ...


class Worker:
    """Whatever a process needs to serve; made once, before the processes."""

    def __init__(
        self,
        settings: Settings,
        tried: Collection[Tried],
        orders: Orders,
        served: Served | None,
        keys: KnownKeys,
        port: Port,
        board: Board,
        gpus: Sequence[str],
    ) -> None:
        self._settings, self._tried, self._orders, self._served = settings, tried, orders, served
        self._keys = keys
        self._port, self._board, self._gpus = port, board, gpus

    def run(self, number: int, tell: Connection) -> None:
        """Serve as one of several, or end this process after telling why it cannot."""
        if self._gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        try:
            app = self._create_app(number)
        except StartupError as error:
            tell.send(str(error))
            sys.exit(STARTUP_FAILURE)
        except Exception:  # it would come again at every restart
            log.exception("a worker could not start")
            sys.exit(STARTUP_FAILURE)
        self._serve(app, number, watch=partial(end_if_useless, app.state.service, os.getppid()))

    def serve_alone(self, listening: Callable[[], None]) -> None:
        """Serve as the only process until SIGTERM or Ctrl-C; `listening` is called once connections are taken.

        Raises: StartupError when a model or a setting will not do.
        """
        app = self._create_app(0)
        service: Service = app.state.service
        self._serve(app, 0, watch=lambda: fence_off(service), listening=listening)

    def _create_app(self, number: int) -> FastAPI:
        """Raises: StartupError when a model or a setting will not do."""
        settings = self._settings
        log_request = None
        if access_log.isEnabledFor(logging.INFO):
            log_request = RequestLog(sys.stderr, settings.log_format).write
        app = create_app(
            settings,
            tried=self._tried,
            orders=self._orders.of(number),
            served=self._served,
            keys=self._keys,
            log_request=log_request,
            tracer=_open_tracer(number) if settings.tracing else None,
        )
        gc.freeze()  # it stays, so nobody need look through it for garbage
        if settings.worker_bytes is not None:
            _bound_memory(settings.worker_bytes)
        return app

    def _serve(
        self,
        app: FastAPI,
        number: int,
        *,
        watch: Callable[[], object],
        listening: Callable[[], None] = _do_nothing,
    ) -> None:
        metrics: Metrics = app.state.service.metrics
        usage = Usage(metrics, str(number))

        def look() -> None:
            usage.show()
            metrics.tasks.set(len(asyncio.all_tasks()))
            watch()

        listener = Listener(self._port, self._board, number, look)
        orders: Orders = app.state.service.orders
        server = _Server(uvicorn.Config(app, **self._options), listener, listening, orders.end)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again once it has drained
            server.run(sockets=[])
        if not server.started:
            sys.exit(STARTUP_FAILURE)

    @property
    def _options(self) -> dict[str, Any]:
        settings = self._settings
        clients, max_token_bytes = Clients(settings.max_connections), token_chars(settings.max_state_bytes)
        return {
            "log_config": None,
            "access_log": False,  # baton.access writes the one line of a request
            "timeout_keep_alive": 75,  # longer than proxies keep theirs, so that it is they who close
            "proxy_headers": False,  # nothing here depends on who the client is
            "http": partial(HttpProtocol, settings=settings, clients=clients),
            "ws": partial(StreamProtocol, max_token_bytes=max_token_bytes, clients=clients),
            "ws_max_size": settings.max_frame_bytes,
            "ws_per_message_deflate": False,  # neither states nor floats get smaller
            "ws_ping_timeout": None,  # pings keep proxies from closing; who is gone, BATON_STREAM_IDLE_S tells
            "timeout_graceful_shutdown": 2 * math.ceil(settings.timeout_ms / 1000) + DRAIN_SPARE_S,
        }


def _bound_memory(most_bytes: int) -> None:
    """Raises: SettingsError when the models that are loaded leave too little for runs."""
    taken_bytes = int(PAGES.read_text().split()[DATA]) * resource.getpagesize()
    if most_bytes < taken_bytes + RUNS_BYTES:
        message = f"BATON_WORKER_BYTES {most_bytes} is too little: with its models a worker takes {taken_bytes} already"
        raise SettingsError(f"{message}, and runs want {RUNS_BYTES} more")
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most))  # a version's trial takes it back to that


def _open_tracer(worker: int) -> Tracer | None:
    from service.web.tracing import open_tracer  # which needs the extra otel

    return open_tracer(worker)


class _Server(uvicorn.Server):
    """uvicorn's, which takes its connections from a `Listener`; `ending` is called before it waits for requests."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: Listener,
        listening: Callable[[], None],
        ending: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._listener, self._listening, self._ending = listener, listening, ending
        self.server_state.connections = cast(Any, listener.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        create_protocol = cast(Any, self.config.http_protocol_class)
        self._listener.start(
            partial(create_protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        )
        self.servers.append(cast(Any, self._listener))
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


def fence_off(service: Service) -> bool:
    """Fence off the versions whose runs do not end; return whether such a run is under way here."""
    return service.loader.fence.look(service.engines.all)


def end_if_useless(service: Service, supervisor: int) -> None:
    """Drain and end when a model's thread has died or hangs, for a new worker has one, or when the supervisor has."""
    if fence_off(service) or os.getppid() != supervisor or service.engines.stopped:
        os.kill(os.getpid(), signal.SIGTERM)
