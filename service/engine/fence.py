"""Versions whose runs do not end, found and fenced off.

It knows engines, and the record that processes share, not how a process is ended. Invariant: once a process has seen a
run of a version take too long, none takes up a row of that version, until the version is loaded anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial

from service.engine.engine import Engine
from service.engine.served import Served
from service.errors import ModelFailed, NotReady, RequestError

log = logging.getLogger("baton.loading")

RETRY_AFTER_MS = 60_000  # somebody has to act


class Fence:
    """Fences off what runs for more than `limit_s`, here or in the processes that share `served`."""

    def __init__(self, limit_s: int, served: Served | None) -> None:
        self._limit_s, self._served = limit_s, served
        self._looks: dict[Engine, tuple[float, int]] = {}  # when its oldest run began, and how often it was seen

    def look(self, engines: Iterable[Engine]) -> bool:
        """Fence off the engines that hang, and those of versions that hung elsewhere; return whether one hangs here.

        It is to be called every second.
        """
        free = [engine for engine in engines if not engine.fenced]
        self._looks = {
            engine: self._seen(engine, since) for engine in free if (since := engine.running_since) is not None
        }
        hung = [engine for engine, (since, looks) in self._looks.items() if self._is_too_long(since, looks)]
        for engine in hung:
            engine.metrics.hung()
            if self._served is not None:
                self._served.fence(engine.manifest.name, engine.manifest.version)
        elsewhere = [] if self._served is None else self._served.read().fenced
        for engine in free:
            name, version = engine.manifest.name, engine.manifest.version
            if engine in hung or [name, version] in elsewhere:
                where = "here" if engine in hung else "in another worker"
                message = "%s %s had a run of more than %d s %s, and is not served until it is loaded anew"
                log.error(message, name, version, self._limit_s, where)
                engine.fence(partial(self._refusal, name, version), self._failure)
        return bool(hung)

    def _seen(self, engine: Engine, since: float) -> tuple[float, int]:
        """Return when the engine's oldest run began, and how many looks have seen it."""
        before, looks = self._looks.get(engine, (since, 0))
        return since, looks + 1 if before == since else 1

    def _is_too_long(self, since: float, looks: int) -> bool:
        """Return whether a run takes too long, by the clock and by as many looks: a process may have been paused."""
        return time.monotonic() - since > self._limit_s < looks

    def _refusal(self, name: str, version: str) -> RequestError:
        message = f"version {version} of {name!r} had a run of more than {self._limit_s} s"
        return NotReady(f"{message}; it is not served until it is loaded anew", retry_after_ms=RETRY_AFTER_MS)

    def _failure(self) -> RequestError:
        return ModelFailed(f"the run took more than {self._limit_s} s; the version of the model is not served any more")
