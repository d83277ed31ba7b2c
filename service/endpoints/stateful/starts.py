"""Where sessions begin: at the point of the token that came, or anew.

It knows requests that may carry a state, not steps. Invariant: a session begins anew only where the request has no
member `state` at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.errors import InvalidRequest, RequestError, attempt
from service.state.sessions import Point, Sessions, null_state
from service.web.context import Caller


class Resumable(Protocol):
    """A part of a request that may carry a state."""

    @property
    def state(self) -> bytes | None: ...
    @property
    def model_fields_set(self) -> set[str]: ...


async def find_starts(
    caller: Caller, task: Task, model: str | None, asked: Sequence[Resumable]
) -> tuple[Engine, list[Point | RequestError]]:
    """Return the engine of new sessions of a model for `task`, and where each of `asked` begins, or why it cannot: what
    `Sessions.resume` and `Sessions.begin` give.

    Raises: UnknownModel or WrongTask for the model; NotReady when a reload takes too long.
    """
    engines, sessions = caller.service.engines, caller.service.sessions
    name = engines.name(model, task)
    tokens = [one.state for one in asked if one.state is not None]
    resumed = iter(await caller.resume(tokens, model=name))
    newest = engines.for_task(name, task)  # not before: models may be reloaded meanwhile
    return newest, [_without_state(one, newest, sessions) if one.state is None else next(resumed) for one in asked]


async def find_first(caller: Caller, task: Task, model: str | None, version: str, asked: Resumable) -> Point:
    """Return the first point of a session with a version of a model.

    Raises: InvalidRequest when `asked` carries a state; what `Sessions.begin_with` raises.
    """
    if "state" in asked.model_fields_set:
        raise InvalidRequest("a state goes on with the version that made it; leave version out", field="version")
    return await caller.service.sessions.begin_with(version, model=caller.service.engines.name(model, task), task=task)


def _without_state(one: Resumable, newest: Engine, sessions: Sessions) -> Point | RequestError:
    return null_state() if "state" in one.model_fields_set else attempt(sessions.begin, newest)
