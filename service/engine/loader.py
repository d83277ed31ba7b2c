"""What is served, kept equal to the models directory: at the start, and again when it is asked to reload.

The models directory is the desired state; it says also which version answers new work, if not the newest. A reload
loads what is new on a thread of its own, while the service answers requests. Then all changes take effect at once, or
none if anything is wrong. An order does the same for one model. A model that was unloaded counts as gone until it is to
be loaded. A process that takes another's place serves what the others do; what else has changed on disk waits for a
reload. It knows engines and when they end, not signals and not requests. Invariant: one change is made at a time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime

from service.contract.files import CHOICE_FILE
from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.fence import Fence
from service.engine.models_directory import ModelsDirectory, let_go
from service.engine.orders import Order, Refusal, Refused
from service.engine.registry import Registry, Wanted, label
from service.engine.served import Record, Served
from service.engine.versions import Tried
from service.errors import NotReady, RequestError, StartupError, model_ended, reason_of
from service.metrics import Metrics
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
        served: Served | None = None,
    ) -> None:
        """Load every model but those that are `unloaded`; the versions in `tried` need no trial.

        Where other processes have said in `served` what they serve, that is loaded and nothing else.

        Raises: ManifestError or DeviceUnavailable for a version that cannot be served.
        """
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._done, self._refused = (metrics.reloads.labels(outcome) for outcome in ("done", "refused"))
        self.unloaded, self._served = unloaded, served
        self._asked, self._woken = False, asyncio.Event()
        self._changes, self._changing = 0, asyncio.Lock()
        self.fence = Fence(settings.run_limit_s, served)
        self.directory = ModelsDirectory(settings, metrics, tried)
        self._followed = record = Record() if served is None else served.read()
        if record.versions is None:
            self.engines = Registry(self.directory.load_all([], unloaded()))
            self._note_served(self.engines.all)
        else:
            self.engines = Registry(self.directory.load_served(record.versions, record.chosen))
        self._say_chosen()

    def start(self) -> None:
        """Let the engines work, on the event loop that is running."""
        for engine in self.engines.all:
            self._start(engine)
        if self._served is not None:
            record, before = self._served.read(), self._followed
            if record.answered < record.asked or (record.versions, record.chosen) != (before.versions, before.chosen):
                self.ask()  # what another process was asked for and died over, or took up while this one loaded

    async def drain(self) -> None:
        """Answer what waits for the engines, and end their work, and that of a reload."""
        self.directory.stop_trial()
        await asyncio.gather(*(engine.drain() for engine in self.engines.all))

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
            self.directory.failures[order.name] = order.refused
            yield
            return
        try:
            async with self._change():
                loaded = await self._load_ordered(order) if order.wanted else Wanted([], {})
                try:
                    yield
                except BaseException:
                    let_go(loaded.engines, self.engines.all)
                    raise
                change = f"{order.name} {'loaded' if order.wanted else 'unloaded'}"
                self._replace(self._with_others(order.name, loaded), change)
                self._tell_done()
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
        self.directory.prepare_trial()
        asked = 0 if self._served is None else self._served.read().asked
        try:
            with self._told_if_refused():
                wanted = await asyncio.to_thread(self.directory.load_all, self.engines.all, self.unloaded())
                self._replace(wanted, "models reloaded")
        except (StartupError, OSError) as error:
            log.error("the models were not reloaded, those loaded before serve on: %s", error)
        except Exception:  # a reload may fail, the service may not
            log.exception("the models were not reloaded, those loaded before serve on")
        else:
            self._tell_done()
        if self._served is not None:
            self._served.answer(asked)

    @contextmanager
    def _told_if_refused(self) -> Iterator[None]:
        with self._refused.count_exceptions():
            try:
                yield
            except Exception:
                self._metrics.load_refused.set(1)
                raise

    def _tell_done(self) -> None:
        self._done.inc()
        self._metrics.load_refused.set(0)

    def _with_others(self, name: str, loaded: Wanted) -> Wanted:
        """Return what is wanted of the model called `name`, together with the other models as they are."""
        others = [engine for engine in self.engines.all if engine.manifest.name != name and engine.ends_ms is None]
        chosen = {other: version for other, version in self.engines.chosen.items() if other != name}
        return Wanted([*others, *loaded.engines], chosen | dict(loaded.chosen))

    async def _load_ordered(self, order: Order) -> Wanted:
        """Raises: Refused."""
        self.directory.failures.pop(order.name, None)
        self.directory.prepare_trial()
        try:
            with self._told_if_refused():
                return await asyncio.to_thread(self.directory.load_model, order.name, self.engines.all)
        except (StartupError, OSError) as error:
            log.error("%s was not loaded, what was served serves on: %s", order.name, error)
            raise Refused(self.directory.failures.setdefault(order.name, Refusal(reason_of(error)))) from error

    def _replace(self, wanted: Wanted, change: str) -> None:
        """Make `wanted` what answers, and say so of the `change`."""
        before = set(self.engines.all)
        anew = [engine for engine in wanted.engines if engine not in before]
        for engine in anew:
            self._start(engine)
        now_ms = self._now_ms()
        self.engines.replace(wanted, now_ms=now_ms, ttl_ms=1000 * self._settings.state_ttl_s)
        log.info("%s: %s answer", change, ", ".join(map(label, wanted.engines)) or "no models")
        self._note_served(anew)
        self._say_chosen()
        for engine in self.engines.all:
            if engine.ends_ms is not None and engine.ends_ms > now_ms:
                log.info("%s is retiring: its sessions may go on until %s", label(engine), _shown(engine.ends_ms))

    async def _unload_ended(self) -> None:
        """Let go of the engines whose time has come, and answer what still waits for them."""
        ended = self.engines.remove_ended(self._now_ms())
        await asyncio.gather(*(engine.drain(_refusal(engine.manifest)) for engine in ended))
        while ended:
            ended[-1].model.close()
            self._say_unloaded(ended.pop())  # no variable may refer to an engine that was unloaded

    def _note_served(self, anew: Iterable[Engine]) -> None:
        if self._served is not None:
            versions: dict[str, dict[str, int | None]] = {}
            for engine in self.engines.all:
                versions.setdefault(engine.manifest.name, {})[engine.manifest.version] = engine.ends_ms
            loaded = [[engine.manifest.name, engine.manifest.version] for engine in anew]
            self._followed = self._served.take_up(versions, self.engines.chosen, loaded)

    def _say_chosen(self) -> None:
        for name, version in self.engines.chosen.items():
            log.info("%s %s answers new work, as %s says; other versions go on", name, version, CHOICE_FILE)

    def _start(self, engine: Engine) -> None:
        engine.start()
        self._show(engine, loaded=True)

    def _say_unloaded(self, engine: Engine) -> None:
        self._show(engine, loaded=self.engines.by_fingerprint(engine.manifest.fingerprint) is not None)  # anew
        log.info("unloaded %s", label(engine))

    def _show(self, engine: Engine, *, loaded: bool) -> None:
        manifest = engine.manifest
        self._metrics.model_info.labels(manifest.name, manifest.version, manifest.task).set(loaded)
        for part in engine.parts:
            part.metrics.show_threads(loaded * part.batcher.threads)

    def _now_ms(self) -> int:
        return int(1000 * self._clock())


def _refusal(manifest: Manifest) -> Callable[[], RequestError]:
    """Return what refuses work that found a version that ended meanwhile; a session cannot go on with another."""
    return model_ended if manifest.streamable else _unloaded


def _unloaded() -> RequestError:
    return NotReady("this version of the model was unloaded just now; send the request again", retry_after_ms=1000)


def _shown(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="seconds")
