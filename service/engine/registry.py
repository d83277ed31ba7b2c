"""The registry of loaded engines, by name and version, with those that retire because their directory is gone.

The newest version of a model answers new work, unless another is chosen; the other versions answer their own state
tokens. A version that is no longer wanted retires: it serves its tokens until the last could have expired, and then
ends. It knows engines and times, not how engines are made. Invariant: the registry changes as a whole, on the event
loop's thread, between two requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.errors import InvalidRequest, Unavailable, UnknownModel, WrongTask


@dataclass(frozen=True)
class Wanted:
    """The engines that are to answer, and by the names of models which versions answer new work, if not the newest."""

    engines: Sequence[Engine]
    chosen: Mapping[str, str]


class Registry:
    """The engines that requests look up; `all` is in the order of names and rising versions.

    The loader clears `settled` while it reloads.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.settled = asyncio.Event()
        self.settled.set()
        self._set(wanted)

    def _set(self, wanted: Wanted) -> None:
        self.all, self.chosen = sorted(wanted.engines, key=_place), wanted.chosen
        best_last = sorted(self.all, key=lambda engine: (engine.ends_ms is None, self._is_chosen(engine)))
        latest = {engine.manifest.name: engine for engine in best_last}
        self._latest = dict(sorted(latest.items()))
        self._by_fingerprint = {engine.manifest.fingerprint: engine for engine in self.all}
        self._default_names: dict[Task, str] = {}
        self._groups: dict[tuple[Task | None, str | None], list[Engine]] = {}
        for engine in self.all:
            name = engine.manifest.name
            for group in ((None, name), *product(engine.manifest.answers, (name, None))):
                self._groups.setdefault(group, []).append(engine)

    def _is_chosen(self, engine: Engine) -> bool:
        return self.chosen.get(engine.manifest.name) == engine.manifest.version

    def replace(self, wanted: Wanted, *, now_ms: int, ttl_ms: int) -> None:
        """Let the engines of `wanted` and no others stay; the others retire.

        Engines whose states clients carry serve their tokens for `ttl_ms` more, which a later reload does not prolong.
        The other engines end now.
        """
        for engine in wanted.engines:
            engine.ends_ms = None
        unwanted = [engine for engine in self.all if engine not in wanted.engines]
        for engine in unwanted:
            if engine.ends_ms is None:
                engine.ends_ms = now_ms + (ttl_ms if engine.manifest.streamable and not engine.fenced else 0)
        self._set(Wanted([*wanted.engines, *unwanted], wanted.chosen))

    def remove_ended(self, now_ms: int) -> list[Engine]:
        """Remove the engines whose time has come, and return them."""
        ended = [engine for engine in self.all if engine.ends_ms is not None and engine.ends_ms <= now_ms]
        self._set(Wanted([engine for engine in self.all if engine not in ended], self.chosen))
        return ended

    @property
    def next_end_ms(self) -> int | None:
        """The time when the next retiring version ends, in milliseconds since 1970; None when none is retiring."""
        return min((engine.ends_ms for engine in self.all if engine.ends_ms is not None), default=None)

    @property
    def latest(self) -> list[Engine]:
        """An engine of each model: the version that answers new work, else the newest that is retiring."""
        return list(self._latest.values())

    @property
    def stopped(self) -> list[str]:
        """The names of models whose thread has died, and which take no work."""
        return [engine.manifest.name for engine in self.all if not (engine.alive or engine.batcher.draining)]

    def versions(self, name: str) -> list[Engine]:
        """Return the loaded versions of a model, oldest first."""
        return [engine for engine in self.all if engine.manifest.name == name]

    def get(self, name: str, version: str | None = None) -> Engine:
        """Return the engine of a model that answers new work, or that of a version.

        Raises: UnknownModel with the names, or the versions, that are served.
        """
        if name not in self._latest:
            served = ", ".join(self._latest) or "none"
            raise UnknownModel(f"no model is called {name!r}; this service has {served}", field="model")
        if version is None:
            return self._latest[name]
        versions = {engine.manifest.version: engine for engine in self.versions(name)}
        if version not in versions:
            served = ", ".join(versions)
            raise UnknownModel(f"model {name!r} has no version {version!r} here; it has {served}", field="version")
        return versions[version]

    def name(self, given: str | None, task: Task) -> str:
        """Return the name that a request gave, else that of the only model of `task`, or of the model called like it.

        Raises: UnknownModel when no model is for `task`; InvalidRequest with their names when several are.
        """
        if given is not None:
            return given
        if task not in self._default_names:
            self._default_names[task] = self._default_name(task)
        return self._default_names[task]

    def _default_name(self, task: Task) -> str:
        able = self._able(task)
        names = [engine.manifest.name for engine in able if engine.ends_ms is None or len(able) == 1]
        if task in names:
            return task
        if not names:
            raise UnknownModel(f"this service has no model for task {task!r}", field="model")
        if len(names) > 1:
            raise InvalidRequest(f"name the model: for task {task!r} there are {', '.join(names)}", field="model")
        return names[0]

    def for_task(self, name: str, task: Task, version: str | None = None) -> Engine:
        """Return the engine of a model for new work, or that of a version; it may be retiring if clients carry its
        states.

        Raises: UnknownModel as `get` does; WrongTask when the model is for another task.
        """
        engine = self.get(name, version)
        if task not in engine.manifest.answers:
            able = ", ".join(other.manifest.name for other in self._able(task))
            message = f"{name!r} is for task {engine.manifest.task!r}; for {task!r} there is {able or 'no model'}"
            raise WrongTask(message, field="model")
        return engine

    def _able(self, task: Task) -> list[Engine]:
        return [engine for engine in self.latest if task in engine.manifest.answers]

    def admit(self, task: Task | None, tenant: str, *, rows: int = 1, ahead: int = 0, name: str | None = None) -> None:
        """Check that some model of `task`, or a version of the one called `name`, works and has room for so many rows.

        With `name` the task may be left open.

        Of the tenant's rows `ahead` are on their way and come first.

        Raises: what `Batcher.check_room` raises, when none has.
        """
        engines = self._groups.get((task, name))
        if engines is None:  # the look-up by name will say so
            return
        for engine in engines[:-1]:
            with suppress(Unavailable):
                return engine.batcher.check_room(rows, tenant, ahead=ahead)
        engines[-1].batcher.check_room(rows, tenant, ahead=ahead)

    def by_fingerprint(self, fingerprint: bytes) -> Engine | None:
        return self._by_fingerprint.get(fingerprint)


def label(engine: Engine) -> str:
    """Return the name and version of an engine, for the log."""
    return f"{engine.manifest.name} {engine.manifest.version}"


def _place(engine: Engine) -> tuple[str, int]:
    return engine.manifest.name, int(engine.manifest.version)
