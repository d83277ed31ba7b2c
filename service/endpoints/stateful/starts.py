"""Where sessions begin: at the point of the token that came, or anew.

It knows requests that may carry a state, not steps. Invariant: a session begins anew only where the request has no
member `state` at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from service.contract.manifest import Task
from service.engine.engine import Engine
from service.errors import RequestError, attempt
from service.state.sessions import Point, Sessions, null_state
from service.web.context import Caller

TASK: Task = "step"


class Resumable(Protocol):
    """A part of a request that may carry a state."""

    @property
    def state(self) -> bytes | None: ...
    @property
    def model_fields_set(self) -> set[str]: ...


async def find_starts(
    caller: Caller, model: str | None, asked: Sequence[Resumable]
) -> tuple[Engine, list[Point | RequestError]]:
    """Return the engine of new sessions, and where each of `asked` begins, or why it cannot: what `Sessions.resume` and
    `Sessions.begin` give.

    Raises: UnknownModel or WrongTask for the model; NotReady when a reload takes too long.
    """
    engines, sessions = caller.service.engines, caller.service.sessions
    name = engines.name(model, TASK)
    tokens = [one.state for one in asked if one.state is not None]
    resumed = iter(await sessions.resume(tokens, model=name, tenant=caller.tenant))
    newest = engines.for_task(name, TASK)  # not before: models may be reloaded meanwhile
    return newest, [_without_state(one, newest, sessions) if one.state is None else next(resumed) for one in asked]


def _without_state(one: Resumable, newest: Engine, sessions: Sessions) -> Point | RequestError:
    return null_state() if "state" in one.model_fields_set else attempt(sessions.begin, newest)
