"""`baton serve`: what all processes need is done once, then as many as wanted serve.

It knows settings and how the parts start, not how a worker is watched. Modules are imported and versions tried before
the workers are forked; sessions of ONNX Runtime, threads and event loops do not survive a fork, so each makes its own.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

# Numpy's linear algebra would start a thread for each core, and a process is to have no other threads when it forks.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
from service.engine.orders import Orders
from service.engine.served import Served
from service.engine.trial import Trial
from service.engine.versions import Tried, try_at_once
from service.errors import SettingsError
from service.metrics import share_metrics
from service.model.onnx_session import CUDA, choose_providers
from service.model.repository import find_versions
from service.settings import AUTO, MOST_WORKERS, Settings
from service.web.access_log import configure_logging
from service.web.api_keys import KnownKeys
from service.web.trace_variables import check_variables
from service.workers.cores import usable_cores, usable_gpus
from service.workers.port import Board, Port
from service.workers.supervisor import Supervisor

SWITCH_S = 0.0005  # a run that has ended waits no longer than this for the interpreter; Python's default is 5 ms


def run_service(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C: in this process, or with several workers in theirs.

    Raises: StartupError when a model or a setting will not do.
    """
    _configure_process(settings)
    keys = KnownKeys(settings)
    _refuse_open_address(settings, keys)
    if settings.tracing:
        _import_tracing()
    gpus = usable_gpus() if CUDA in choose_providers(settings.device) else []
    if settings.workers == AUTO:
        settings = settings.model_copy(update={"workers": min(len(gpus) or usable_cores(), MOST_WORKERS)})
    with _reserved(settings) as port:
        tried = _try_all(settings)
        from service.workers.worker import Worker

        gc.collect()
        gc.freeze()  # what was imported need not be looked through again: that took 40 ms at a time
        board, listening = Board(settings.worker_count), partial(port.announce, settings.host)
        with ExitStack() as shared:
            orders = shared.enter_context(Orders.shared(settings.worker_count))
            served = None if settings.worker_count == 1 else shared.enter_context(Served.shared())
            worker = Worker(settings, tried, orders, served, keys, port, board, gpus)
            if served is None:
                worker.serve_alone(listening)
                return
            shared.enter_context(_shared_metrics())
            Supervisor(
                worker.run,
                settings.worker_count,
                board,
                listening=listening,
                ending=port.close,
                reloading=partial(_reload, keys, served),
            ).run()


def _refuse_open_address(settings: Settings, keys: KnownKeys) -> None:
    """Raises: SettingsError when others than this machine could call, and nobody has said that they may."""
    if settings.on_loopback or settings.open_access or keys.asks:
        return
    raise SettingsError(
        f"BATON_HOST {settings.host} can be reached by others, and no tenant has an API key: make one by `baton keys "
        "api new TENANT`, or set BATON_OPEN_ACCESS=true to serve whoever comes"
    )


def _reload(keys: KnownKeys, served: Served) -> None:
    """Have workers that start later know what those know that read the keys again now, and tell of it."""
    with suppress(SettingsError):
        keys.reread()
    served.ask()


def _try_all(settings: Settings) -> list[Tried]:
    """Try every version, on all cores; meanwhile import the other half of the service.

    Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
    """
    directories = find_versions(settings.models_dir)
    trials = [Trial(settings).fork() for _ in range(min(usable_cores(), len(directories)))]
    with ThreadPoolExecutor(1, "trials") as beside, ExitStack() as stack:
        for trial in trials:
            stack.callback(trial.stop)
        trying = beside.submit(try_at_once, directories, settings, trials)
        importlib.import_module("service.workers.worker")
        return trying.result()


def _import_tracing() -> None:
    """Raises: SettingsError where the extra is not installed, or for a variable that cannot be used."""
    check_variables()
    try:
        importlib.import_module("service.web.tracing")
    except ModuleNotFoundError as missing:
        message = f"BATON_TRACING needs the extra otel ({missing}); install it: pip install 'baton-serving[otel]'"
        raise SettingsError(message) from missing


def _configure_process(settings: Settings) -> None:
    sys.setswitchinterval(SWITCH_S)
    configure_logging(settings.log_level, settings.log_format)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the models that it is about are loaded
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # every connection is one


def _reserved(settings: Settings) -> Port:
    """Raises: SettingsError when the address cannot be had."""
    try:
        return Port(settings.host, settings.port)
    except OSError as failure:
        place = f"BATON_HOST {settings.host}, BATON_PORT {settings.port}"
        raise SettingsError(f"cannot listen on {place}: {failure}") from failure


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """Have this process and those forked from it keep their metrics in a directory."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="baton-metrics-")
    except OSError as failure:
        message = f"several workers need a temporary directory for their metrics ({failure}); set TMPDIR to one"
        raise SettingsError(message) from failure
    with directory as path:
        share_metrics(path)
        yield
