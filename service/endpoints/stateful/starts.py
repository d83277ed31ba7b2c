"""Where sessions begin: at the point of the token that came, from a condition, or anew.

It knows requests that may carry a state or a condition, not steps. Invariant: a session begins anew only where the
request has no member `state` at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.batching.submission import Timing
from service.contract.manifest import Task
from service.endpoints.stateful.conditions import Beginning, Condition
from service.engine.engine import Engine
from service.engine.rows import Answer
from service.errors import InvalidRequest, RequestError, attempt
from service.settings import Settings
from service.state.sessions import Point, Sessions, begun, null_state
from service.web.batch import NO_RUN, run_within
from service.web.context import Call, Caller


@dataclass(frozen=True, slots=True)
class Start:
    """Where a session goes on, and why the condition is doubtful that it begins from."""

    point: Point
    doubts: Sequence[str] = ()


class Resumable(Protocol):
    """A part of a request that may carry a state."""

    @property
    def state(self) -> bytes | None: ...
    @property
    def model_fields_set(self) -> set[str]: ...


class Conditioned(Resumable, Protocol):
    """A part of a request that may carry a state, or a condition in a member that is called `condition_member`."""

    @property
    def condition(self) -> Condition | None: ...
    @property
    def condition_member(self) -> str: ...


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


async def begin_all(
    call: Call, task: Task, model: str | None, asked: Sequence[Conditioned], limit_s: float
) -> tuple[Engine, list[Start | RequestError], Timing]:
    """Return the engine of new sessions, and where each of `asked` begins, or why it cannot, as `find_starts` does.
    Conditions are read by runs of the start graph that they share, within `limit_s`.

    Raises: what `find_starts` and `run_within` raise.
    """
    newest, starts = await find_starts(call, task, model, [one for one in asked if one.condition is None])
    found = iter([one if isinstance(one, RequestError) else Start(one) for one in starts])
    starting = [
        next(found) if one.condition is None else attempt(_from_condition, one, newest, call.service.settings)
        for one in asked
    ]
    beginnings = [one for one in starting if isinstance(one, Beginning)]
    outcomes, timing = await run_within(call, beginnings, limit_s) if beginnings else ([], NO_RUN)
    answers = iter(zip(beginnings, outcomes, strict=True))
    return newest, [_begun(*next(answers)) if isinstance(one, Beginning) else one for one in starting], timing


async def find_first(caller: Caller, task: Task, model: str | None, version: str, asked: Resumable) -> Point:
    """Return the first point of a session with a version of a model.

    Raises: InvalidRequest when `asked` carries a state; what `Sessions.begin_with` raises.
    """
    if "state" in asked.model_fields_set:
        raise InvalidRequest("a state goes on with the version that made it; leave version out", field="version")
    return await caller.service.sessions.begin_with(version, model=caller.service.engines.name(model, task), task=task)


def _from_condition(one: Conditioned, newest: Engine, settings: Settings) -> Beginning:
    """Raises: InvalidRequest where a state came as well; what `Beginning` raises."""
    assert one.condition is not None
    if "state" in one.model_fields_set:
        message = f"a state goes on with its own session; leave {one.condition_member} or state out"
        raise InvalidRequest(message, field=one.condition_member)
    return Beginning(one.condition, newest, settings, one.condition_member)


def _begun(beginning: Beginning, outcome: Answer | RequestError) -> Start | RequestError:
    if isinstance(outcome, RequestError):
        return outcome
    return Start(begun(beginning.of, beginning.of.begun(outcome)), beginning.doubts)


def _without_state(one: Resumable, newest: Engine, sessions: Sessions) -> Point | RequestError:
    return null_state() if "state" in one.model_fields_set else attempt(sessions.begin, newest)
