"""Loading the models of a directory: before the service opens its port, and again when it is asked to reload.

The models directory is the desired state. A reload tries new versions in a process of its own, then loads and warms
them on a thread of its own, while the service answers requests. Then all changes take effect at once, or none if
anything is wrong. It knows directories and engines, not signals and not requests. Invariant: an engine that answers
requests has passed every check, and holds what its directory held when it was loaded.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge

from service.contract.files import MANIFEST_FILE
from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.registry import Registry
from service.engine.trial import Trial
from service.engine.versions import Tried, load_tried, try_versions
from service.errors import ManifestError, NotReady, RequestError, StartupError, model_ended
from service.metrics import Metrics
from service.model.repository import find_versions, read_verified
from service.settings import Settings

log = logging.getLogger("baton.loading")


class Loader:
    """Keeps `engines` equal to what the models directory holds. `clock` gives seconds since 1970."""

    def __init__(
        self, settings: Settings, metrics: Metrics, clock: Callable[[], float], tried: Collection[Tried]
    ) -> None:
        """Load every model; the versions in `tried` need no trial.

        Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
        """
        self._settings, self._metrics, self._clock, self._tried = settings, metrics, clock, tried
        self._asked = asyncio.Event()
        self._trial = Trial(settings)
        self.engines = Registry(self._load([]))

    def start(self) -> None:
        """Let the engines work, on the event loop that is running."""
        for engine in self.engines.all:
            self._start(engine)

    async def drain(self) -> None:
        """Answer what waits for the engines, and end their work, and that of a reload."""
        self._trial.stop()
        await asyncio.gather(*(engine.batcher.drain() for engine in self.engines.all))

    def ask(self) -> None:
        """Ask for a reload; if a reload is running, another follows it."""
        self._asked.set()
        self.engines.settled.clear()

    async def follow(self) -> None:
        """Reload when asked to, and unload each retiring version when its time has come, until cancelled."""
        while True:
            end_ms = self.engines.next_end_ms
            wait_s = None if end_ms is None else max(0.0, end_ms / 1000 - self._clock())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), wait_s)
            if self._asked.is_set():
                self._asked.clear()
                await self._reload()
                if not self._asked.is_set():
                    self.engines.settled.set()
            if ended := self.engines.remove_ended(self._now_ms()):
                await self._unload(ended)
            gc.collect()  # an engine and its batcher hold each other

    async def _reload(self) -> None:
        self._trial = Trial(self._settings)
        try:
            wanted = await asyncio.to_thread(self._load, self.engines.all)
            self._replace(wanted)
        except (StartupError, OSError) as error:
            log.error("the models were not reloaded, those loaded before serve on: %s", error)
            outcome = "refused"
        except Exception:  # a reload may fail, the service may not
            log.exception("the models were not reloaded, those loaded before serve on")
            outcome = "refused"
        else:
            outcome = "done"
        self._metrics.reloads.labels(outcome).inc()

    def _replace(self, wanted: list[Engine]) -> None:
        """Make `wanted` the engines that answer new work."""
        before = set(self.engines.all)
        for engine in wanted:
            if engine not in before:
                self._start(engine)
        now_ms = self._now_ms()
        self.engines.replace(wanted, now_ms=now_ms, ttl_ms=1000 * self._settings.state_ttl_s)
        log.info("models reloaded: %s answer", ", ".join(_label(engine) for engine in wanted))
        for engine in self.engines.all:
            if engine.ends_ms is not None and engine.ends_ms > now_ms:
                log.info("%s is retiring: its sessions may go on until %s", _label(engine), _shown(engine.ends_ms))

    async def _unload(self, ended: list[Engine]) -> None:
        """Answer what still waits for the engines, and let go of them."""
        await asyncio.gather(*(engine.batcher.drain(_refusal(engine.manifest)) for engine in ended))
        while ended:
            ended[-1].model.close()
            self._say_unloaded(ended.pop())  # no variable may refer to an engine that was unloaded

    def _start(self, engine: Engine) -> None:
        engine.batcher.start()
        self._info(engine).set(1)

    def _say_unloaded(self, engine: Engine) -> None:
        self._info(engine).set(0)
        log.info("unloaded %s", _label(engine))

    def _load(self, loaded: Iterable[Engine]) -> list[Engine]:
        """Return an engine for every version on disk: that of `loaded`, or a new engine.

        Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
        """
        root = self._settings.models_dir
        known = {root / engine.manifest.name / engine.manifest.version: engine for engine in loaded}
        staying = [directory for directory, engine in known.items() if engine.ends_ms is None]
        directories = find_versions(root, loaded=staying)
        new = [directory for directory in directories if directory not in known]
        engines = []
        with closing(try_versions(new, self._settings, self._trial, self._tried)) as tried:
            for directory in directories:
                engine = known.get(directory)
                if engine is None:
                    engine = self._load_version(next(tried))
                else:
                    _check_unchanged(directory, engine)
                engines.append(engine)
        return engines

    def _load_version(self, tried: Tried) -> Engine:
        started = time.perf_counter()
        engine = load_tried(tried, self._settings, self._metrics)
        if self._settings.load == "eager":
            elapsed_ms, where = 1e3 * (time.perf_counter() - started), engine.model.device
            log.info("loaded %s (%s) on %s in %.0f ms", _label(engine), engine.manifest.task, where, elapsed_ms)
        return engine

    def _info(self, engine: Engine) -> Gauge:
        manifest = engine.manifest
        return self._metrics.model_info.labels(manifest.name, manifest.version, manifest.task)

    def _now_ms(self) -> int:
        return int(1000 * self._clock())


def _refusal(manifest: Manifest) -> Callable[[], RequestError]:
    """Return what refuses work that found a version that ended meanwhile; a session cannot go on with another."""
    return model_ended if manifest.streamable else _unloaded


def _unloaded() -> RequestError:
    return NotReady("this version of the model was unloaded just now; send the request again", retry_after_ms=1000)


def _check_unchanged(directory: Path, engine: Engine) -> None:
    """Raises: ManifestError when the directory does not hold what was loaded from it."""
    found, loaded = read_verified(directory).model_dump(), engine.manifest.model_dump()
    for field, value in loaded.items():
        if found[field] != value:
            message = (
                f"has changed since {_label(engine)} was loaded; a version is immutable: restore it, "
                "and publish the change as a new version"
            )
            raise ManifestError(directory / MANIFEST_FILE, field, message)


def _label(engine: Engine) -> str:
    return f"{engine.manifest.name} {engine.manifest.version}"


def _shown(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
