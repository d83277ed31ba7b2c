"""Loading the models of a directory: before the service opens its port, and again when it is asked to reload.

The models directory is the desired state. A reload tries new versions in a process of its own, then loads and warms
them on a thread of its own, while the service answers requests. Then all changes take effect at once, or none if
anything is wrong. An order does the same for one model. A model that was unloaded counts as gone until it is to be
loaded. It knows directories and engines, not signals and not requests. Invariants: an engine that answers requests has
passed every check, and holds what its directory held when it was loaded; one change is made at a time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Gauge

from service.contract.files import MANIFEST_FILE
from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.orders import Order, Refusal, Refused
from service.engine.registry import Registry
from service.engine.trial import Trial
from service.engine.versions import Tried, load_tried, try_versions
from service.errors import ManifestError, NotReady, RequestError, StartupError, model_ended, reason_of
from service.metrics import Metrics
from service.model.repository import find_versions, read_verified
from service.settings import Settings

log = logging.getLogger("baton.loading")


class Loader:
    """Keeps `engines` equal to what the models directory holds. `clock` gives seconds since 1970."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float],
        tried: Collection[Tried],
        unloaded: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """Load every model but those that are `unloaded`; the versions in `tried` need no trial.

        `loading` are the directories under way, `failures` the reasons why models have versions that are not loaded.

        Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
        """
        self._settings, self._metrics, self._clock, self._tried = settings, metrics, clock, tried
        self.unloaded = unloaded
        self.loading: Collection[Path] = ()
        self.failures: dict[str, Refusal] = {}
        self._asked, self._woken = False, asyncio.Event()
        self._changes, self._changing = 0, asyncio.Lock()
        self._trial = Trial(settings)
        self.engines = Registry(self._load_all([]))

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
        self._asked = True
        self._woken.set()
        self.engines.settled.clear()

    @asynccontextmanager
    async def carry_out(self, order: Order) -> AsyncIterator[None]:
        """Load what is ordered, after the changes under way; the block's end takes it up, an exception drops it.

        Raises: Refused for a version that cannot be served; nothing changes then.
        """
        if order.refused:
            self.failures[order.name] = order.refused
            yield
            return
        try:
            async with self._change():
                engines = await self._load_ordered(order) if order.wanted else []
                try:
                    yield
                except BaseException:
                    _let_go(engines, self.engines.all)
                    raise
                self._replace(
                    self._others(order.name) + engines, f"{order.name} {'loaded' if order.wanted else 'unloaded'}"
                )
                await self._unload_ended()
        finally:
            self._woken.set()  # the next end may be another, and what was dropped is garbage

    async def follow(self) -> None:
        """Reload when asked to, and unload each retiring version when its time has come, until cancelled."""
        while True:
            end_ms = self.engines.next_end_ms
            wait_s = None if end_ms is None else max(0.0, end_ms / 1000 - self._clock())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), wait_s)
            self._woken.clear()
            async with self._change():
                if self._asked:
                    self._asked = False
                    await self._reload()
                await self._unload_ended()
            gc.collect()  # an engine and its batcher hold each other

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """Wait for the changes under way, and have tokens of unknown versions wait for this one."""
        self._changes += 1
        self.engines.settled.clear()
        try:
            async with self._changing:
                yield
        finally:
            self._changes -= 1
            if not self._changes and not self._asked:
                self.engines.settled.set()

    async def _reload(self) -> None:
        self._trial = Trial(self._settings)
        try:
            wanted = await asyncio.to_thread(self._load_all, self.engines.all)
            self._replace(wanted, "models reloaded")
        except (StartupError, OSError) as error:
            log.error("the models were not reloaded, those loaded before serve on: %s", error)
            outcome = "refused"
        except Exception:  # a reload may fail, the service may not
            log.exception("the models were not reloaded, those loaded before serve on")
            outcome = "refused"
        else:
            outcome = "done"
        self._metrics.reloads.labels(outcome).inc()

    def _others(self, name: str) -> list[Engine]:
        """Return the engines of other models that answer new work."""
        return [engine for engine in self.engines.all if engine.manifest.name != name and engine.ends_ms is None]

    async def _load_ordered(self, order: Order) -> list[Engine]:
        """Raises: Refused."""
        self.failures.pop(order.name, None)
        self._trial = Trial(self._settings)
        try:
            return await asyncio.to_thread(self._load_model, order.name, self.engines.all)
        except (StartupError, OSError) as error:
            log.error("%s was not loaded, what was served serves on: %s", order.name, error)
            raise Refused(self.failures.setdefault(order.name, Refusal(reason_of(error)))) from error

    def failure(self, name: str) -> Refusal | None:
        """Return why versions of a model are not loaded, if the version at fault is still there."""
        found = self.failures.get(name)
        if found is not None and not (self._settings.models_dir / name / found.version).exists():
            self.failures.pop(name, None)
            return None
        return found

    def _replace(self, wanted: list[Engine], change: str) -> None:
        """Make `wanted` the engines that answer new work, and say so of the `change`."""
        before = set(self.engines.all)
        for engine in wanted:
            if engine not in before:
                self._start(engine)
        now_ms = self._now_ms()
        self.engines.replace(wanted, now_ms=now_ms, ttl_ms=1000 * self._settings.state_ttl_s)
        log.info("%s: %s answer", change, ", ".join(map(_label, wanted)) or "no models")
        for engine in self.engines.all:
            if engine.ends_ms is not None and engine.ends_ms > now_ms:
                log.info("%s is retiring: its sessions may go on until %s", _label(engine), _shown(engine.ends_ms))

    async def _unload_ended(self) -> None:
        """Let go of the engines whose time has come, and answer what still waits for them."""
        ended = self.engines.remove_ended(self._now_ms())
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

    def _load_all(self, loaded: Iterable[Engine]) -> list[Engine]:
        """Return an engine for every version on disk that is wanted: that of `loaded`, or a new engine.

        Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
        """
        known, unloaded = self._by_directory(loaded), self.unloaded()
        staying = [directory for directory, engine in known.items() if engine.ends_ms is None]
        found = find_versions(self._settings.models_dir, loaded=staying)
        return self._load([directory for directory in found if directory.parent.name not in unloaded], known)

    def _load_model(self, name: str, loaded: Iterable[Engine]) -> list[Engine]:
        """Return an engine for every version on disk of one model.

        Raises: as `_load_all` does, and ManifestError when it has no version there.
        """
        known = self._by_directory(loaded)
        return self._load(find_versions(self._settings.models_dir, loaded=known, of=name), known)

    def _by_directory(self, loaded: Iterable[Engine]) -> dict[Path, Engine]:
        root = self._settings.models_dir
        return {root / engine.manifest.name / engine.manifest.version: engine for engine in loaded}

    def _load(self, directories: Sequence[Path], known: Mapping[Path, Engine]) -> list[Engine]:
        self.loading = [directory for directory in directories if directory not in known]
        engines = []
        try:
            with closing(try_versions(self.loading, self._settings, self._trial, self._tried)) as tried:
                for directory in directories:
                    engine = known.get(directory)
                    if engine is None:
                        engine = self._load_version(next(tried))
                    else:
                        _check_unchanged(directory, engine)
                    engines.append(engine)
                    self.failures.pop(directory.parent.name, None)
        except (StartupError, OSError) as error:
            self.failures[directory.parent.name] = Refusal(reason_of(error), directory.name)
            _let_go(engines, known.values())
            raise
        finally:
            self.loading = ()
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


def _let_go(engines: Iterable[Engine], kept: Iterable[Engine]) -> None:
    """Close the engines that never answered, but not those to be `kept`."""
    for engine in set(engines).difference(kept):
        engine.model.close()


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
