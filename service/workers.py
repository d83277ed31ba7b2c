"""The processes that serve: one, or several on one port with uvicorn's supervisor above them.

Each worker is a whole service with models, queues and threads of its own; workers share the port, the token key and
a directory of metrics. It knows processes, not requests. Invariant: no worker outlives its supervisor, and the reason
why one could not start is raised here, however many there are.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from service.app import create_app
from service.engine.trial import Trial
from service.engine.versions import Tried, try_versions
from service.errors import SettingsError, StartupError
from service.model.repository import find_versions
from service.settings import Settings
from service.state.token import token_chars
from service.web.access_log import configure_logging
from service.web.heads import HttpProtocol
from service.web.websocket import StreamProtocol

log = logging.getLogger("baton.workers")
S = TypeVar("S", bound=socket.socket)

DRAIN_SPARE_S = 5  # after a body's time to arrive and a request's to wait; then clients that do not read are cut off
SWITCH_S = 0.0005  # a run that has ended waits no longer than this for the interpreter; Python's default is 5 ms
UNRESPONSIVE_S = 30  # a worker that imports or loads a large model answers its supervisor no sooner


def run_service(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C: in this process, or with several workers in theirs.

    Raises: StartupError when a model or a setting will not do.
    """
    _configure_process(settings)
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.workers,
        "log_config": None,
        "access_log": False,  # baton.access writes the one line of a request
        "timeout_keep_alive": 75,  # longer than proxies keep theirs, so that it is they who close
        "proxy_headers": False,  # nothing here depends on who the client is
        "http": partial(HttpProtocol, head_ms=settings.timeout_ms),
        "ws": partial(StreamProtocol, max_token_bytes=token_chars(settings.max_state_bytes)),
        "ws_max_size": settings.max_frame_bytes,
        "ws_per_message_deflate": False,  # neither states nor floats get smaller
        "ws_ping_timeout": None,  # pings keep proxies from closing; who is gone, BATON_STREAM_IDLE_S tells
        "timeout_graceful_shutdown": 2 * math.ceil(settings.timeout_ms / 1000) + DRAIN_SPARE_S,
    }
    with _Port.reserve(settings.host, settings.port) as port:
        if settings.workers == 1:
            _serve(settings, options, port)
        else:
            _supervise(settings, options, port)


def _serve(settings: Settings, options: dict[str, Any], port: _Port) -> None:
    server = _Server(uvicorn.Config(_load_app(settings, []), **options))
    with suppress(KeyboardInterrupt):  # which uvicorn raises again once it has drained
        server.run(sockets=[port])
    if not server.started:
        sys.exit(STARTUP_FAILURE)


def _supervise(settings: Settings, options: dict[str, Any], port: _Port) -> None:
    reasons, tell = multiprocessing.Pipe(duplex=False)
    with _metrics_directory() as metrics:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the workers will look at the models later than this
        tried = list(try_versions(find_versions(settings.models_dir), settings, Trial(settings)))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics  # read by prometheus_client when a worker imports it
        config = uvicorn.Config(
            partial(_create_worker, settings, tried, tell),
            factory=True,
            timeout_worker_healthcheck=UNRESPONSIVE_S,
            **options,
        )
        supervisor = _Supervisor(config, [port])
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        reason = "a worker could not start; the log has the cause"
        while reasons.poll():
            reason = reasons.recv()
        raise StartupError(reason)


def _metrics_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="baton-metrics-")
    except OSError as failure:
        message = f"several workers need a temporary directory for their metrics ({failure}); set TMPDIR to one"
        raise SettingsError(message) from failure


class _Port(socket.socket):
    """An address, held without listening; sent to a worker it becomes a socket of the worker's own on that address.

    So the kernel spreads connections over the workers that listen. From one socket shared by all, the first worker to
    wake takes every connection that waits: eight kept-alive connections all went to one of two workers.
    """

    @classmethod
    def reserve(cls, host: str, port: int) -> Self:
        """Return the first address of that name; `::` is that of IPv4 as well.

        Raises: SettingsError when it is taken or is none of this machine's.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            reserved = _bound(cls(family), address)
        except OSError as failure:
            raise SettingsError(f"cannot listen on BATON_HOST {host}, BATON_PORT {port}: {failure}") from failure
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # not before: another service's port is taken
        return reserved

    def __reduce__(self) -> tuple[Any, ...]:
        return _join, (self.family, self.getsockname())


def _join(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    own = socket.socket(family)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return _bound(own, address)


def _bound(own: S, address: tuple[Any, ...]) -> S:
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own.family is socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        own.bind(address)
    except OSError:
        own.close()
        raise
    return own


class _Server(uvicorn.Server):
    """uvicorn's for one process, which also says where it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        _say_running(self.config, sockets)


def _say_running(config: uvicorn.Config, sockets: Sequence[socket.socket]) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    log.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", host, sockets[0].getsockname()[1])


class _Supervisor(Multiprocess):
    """uvicorn's, which also says when all workers listen, notices deaths at once and drops the gauges of the dead.

    It passes SIGHUP on to the workers, which uvicorn's would replace.
    """

    _known: frozenset[int | None] = frozenset()
    _announced = False
    _to_reload: frozenset[int | None] = frozenset()

    def keep_subprocess_alive(self) -> None:
        for process in self.processes:
            process.child_conn.close()  # the worker's end: while it is open here, a death looks like a slow answer
        super().keep_subprocess_alive()
        running = frozenset(process.pid for process in self.processes)
        for pid in self._known - running:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        self._known = running
        self._pass_on_hangups()
        if not self._announced and all(process.is_ready() for process in self.processes):
            self._announced = True
            _say_running(self.config, self.sockets)

    def handle_hup(self) -> None:
        self._to_reload = frozenset(process.pid for process in self.processes)

    def _pass_on_hangups(self) -> None:
        """Tell the workers to reload. A worker that starts would die of the signal, so it is told when it is ready."""
        ready = [process.pid for process in self.processes if process.pid in self._to_reload and process.is_ready()]
        for pid in filter(None, ready):
            os.kill(pid, signal.SIGHUP)
        self._to_reload -= set(ready)


def _create_worker(settings: Settings, tried: list[Tried], tell: Connection) -> FastAPI:
    """Return the application of this worker, or end the process after telling the supervisor why not."""
    _configure_process(settings)
    threading.Thread(target=_end_with_supervisor, name="end-with-supervisor", daemon=True).start()
    try:
        return _load_app(settings, tried)
    except StartupError as error:
        tell.send(str(error))
    except Exception:  # it would come again at every restart
        log.exception("a worker could not start")
    sys.exit(STARTUP_FAILURE)


def _load_app(settings: Settings, tried: list[Tried]) -> FastAPI:
    signal.signal(signal.SIGHUP, _postpone)
    return create_app(settings, tried=tried)


def _postpone(signum: int, _: object) -> None:
    """Leave a signal waiting until the application lets it through, which is when it can act on it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    signal.pthread_kill(threading.main_thread().ident or 0, signum)


def _end_with_supervisor() -> None:
    """Drain when the supervisor was killed; it can tell nobody, and would replace this worker no more."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None
    supervisor.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _configure_process(settings: Settings) -> None:
    gc.collect()
    gc.freeze()  # what was imported need not be looked through again: that took 40 ms at a time
    sys.setswitchinterval(SWITCH_S)
    configure_logging(settings.log_level)
