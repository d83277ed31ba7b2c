"""The models directory as engines: what is there, or what is served of it, loaded and checked.

Versions that are new are tried in a process of its own. It knows directories and how engines come from them, not when
they are wanted, nor what becomes of them. Invariant: an engine that is returned has passed every check, and holds what
its directory held when it was loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from service.contract.files import MANIFEST_FILE, read_choice
from service.engine.engine import Engine
from service.engine.orders import Refusal
from service.engine.registry import Wanted, label
from service.engine.trial import Trial
from service.engine.versions import Tried, load_tried, try_versions
from service.errors import ManifestError, StartupError, reason_of
from service.metrics import Metrics
from service.model.repository import find_versions, read_verified
from service.settings import Settings

log = logging.getLogger("baton.loading")


class ModelsDirectory:
    """Loads what `settings.models_dir` holds; the versions in `tried` need no trial.

    `loading` are the directories under way, `failures` the reasons why models have versions that are not loaded.
    All that is loaded raises ManifestError or DeviceUnavailable for a version that cannot be served.
    """

    def __init__(self, settings: Settings, metrics: Metrics, tried: Collection[Tried]) -> None:
        self._settings, self._metrics, self._tried = settings, metrics, tried
        self.loading: Collection[Path] = ()
        self.failures: dict[str, Refusal] = {}
        self.prepare_trial()

    def prepare_trial(self) -> None:
        """Have what is loaded next tried by itself, until `stop_trial`."""
        self._trial = Trial(self._settings)

    def stop_trial(self) -> None:
        self._trial.stop()

    def load_all(self, loaded: Iterable[Engine], unloaded: Collection[str]) -> Wanted:
        """Return an engine for every version on disk: that of `loaded`, or a new engine; none of `unloaded` models."""
        known = self._by_directory(loaded)
        staying = [directory for directory, engine in known.items() if engine.ends_ms is None]
        found = find_versions(self._settings.models_dir, loaded=staying)
        return self._load([directory for directory in found if directory.parent.name not in unloaded], known)

    def load_served(self, versions: Mapping[str, Mapping[str, int | None]], chosen: Mapping[str, str]) -> Wanted:
        """Return a new engine for every version that others serve; of those that retire, if it is still on disk.

        Raises: ManifestError also for a version that does not retire and is gone.
        """
        found = find_versions(self._settings.models_dir)
        served = [path for path in found if path.name in versions.get(path.parent.name, ())]
        for other in set(found).difference(served):
            log.warning("passed over: %s is not what is served", other)
        for name, ends in versions.items():
            for version, end_ms in ends.items():
                directory = self._settings.models_dir / name / version
                if end_ms is None and directory not in served:
                    message = "is served, and gone; put it back, or reload without it"
                    raise ManifestError(directory, "models_dir", message)
        wanted = self._load(served, {}, choose=lambda model, _: chosen.get(model.name))
        for engine in wanted.engines:
            engine.ends_ms = versions[engine.manifest.name][engine.manifest.version]
        return wanted

    def load_model(self, name: str, loaded: Iterable[Engine]) -> Wanted:
        """Return an engine for every version on disk of one model.

        Raises: ManifestError also when it has no version there.
        """
        known = self._by_directory(loaded)
        return self._load(find_versions(self._settings.models_dir, loaded=known, of=name), known)

    def failure(self, name: str) -> Refusal | None:
        """Return why versions of a model are not loaded, if the version at fault is still there."""
        found = self.failures.get(name)
        if found is not None and not (self._settings.models_dir / name / found.version).exists():
            self.failures.pop(name, None)
            return None
        return found

    def _by_directory(self, loaded: Iterable[Engine]) -> dict[Path, Engine]:
        root = self._settings.models_dir
        return {root / engine.manifest.name / engine.manifest.version: engine for engine in loaded if not engine.fenced}

    def _load(
        self,
        directories: Sequence[Path],
        known: Mapping[Path, Engine],
        choose: Callable[[Path, Collection[str]], str | None] = read_choice,
    ) -> Wanted:
        self.loading = [directory for directory in directories if directory not in known]
        engines: list[Engine] = []
        chosen: dict[str, str] = {}
        try:
            with closing(try_versions(self.loading, self._settings, self._trial, self._tried)) as tried:
                for model, versions in groupby(directories, lambda directory: directory.parent):
                    names = []
                    for directory in versions:
                        engine = known.get(directory)
                        if engine is None:
                            engine = self._load_version(next(tried))
                        else:
                            _check_unchanged(directory, engine)
                        engines.append(engine)
                        names.append(directory.name)
                    if choice := choose(model, names):
                        chosen[model.name] = choice
                    self.failures.pop(model.name, None)
        except (StartupError, OSError) as error:
            self.failures[directory.parent.name] = Refusal(reason_of(error), directory.name)
            let_go(engines, known.values())
            raise
        finally:
            self.loading = ()
        return Wanted(engines, chosen)

    def _load_version(self, tried: Tried) -> Engine:
        started = time.perf_counter()
        engine = load_tried(tried, self._settings, self._metrics)
        if self._settings.load == "eager":
            elapsed_ms, where = 1e3 * (time.perf_counter() - started), engine.model.device
            log.info("loaded %s (%s) on %s in %.0f ms", label(engine), engine.manifest.task, where, elapsed_ms)
        return engine


def let_go(engines: Iterable[Engine], kept: Iterable[Engine]) -> None:
    """Close the engines that never answered, but not those to be `kept`."""
    for engine in set(engines).difference(kept):
        engine.model.close()


def _check_unchanged(directory: Path, engine: Engine) -> None:
    """Raises: ManifestError when the directory does not hold what was loaded from it."""
    found, loaded = read_verified(directory).model_dump(), engine.manifest.model_dump()
    for field, value in loaded.items():
        if found[field] != value:
            message = (
                f"has changed since {label(engine)} was loaded; a version is immutable: restore it, "
                "and publish the change as a new version"
            )
            raise ManifestError(directory / MANIFEST_FILE, field, message)
