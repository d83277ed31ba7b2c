"""Where generated sequences begin: after a prompt, from a condition, at a state, or at the id the model starts with.

It knows items and their runs, not how ids are drawn. Invariant: a sequence begins with nothing only where the model
declares what is fed then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from service.batching.submission import Timing
from service.contract.parts import Mixture
from service.endpoints.stateful.conditions import first_step, start_step
from service.endpoints.stateful.generate.schema import (
    MAX_WHOLE_STEPS,
    OF_IDS,
    OF_POINTS,
    TASK,
    GenerateItem,
    GenerateRequest,
)
from service.endpoints.stateful.starts import Start, begin_all
from service.endpoints.stateful.step_json import read_row
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import BatchTooLarge, InvalidRequest, RequestError, attempt
from service.state.sessions import Hold, Point, Precision
from service.web.batch import Job, in_turn, run_within
from service.web.context import Call


@dataclass(frozen=True, slots=True)
class Opening:
    """Where the choices of an item fork: the point after its prompt, which has so many `steps`; `doubts` say why the
    condition is doubtful that it began from."""

    point: Point
    steps: int = 0
    doubts: Sequence[str] = ()

    @property
    def ids(self) -> list[int]:
        """The last ids before that point, of a text."""
        assert self.point.state is not None
        return self.point.engine.recent(self.point.state)


@dataclass(slots=True)
class _Prompt(Job):
    start: Start


def check(
    call: Call, model: str | None, *, items: int, forks: int, max_steps: int, field: str, text: bool, whole: bool
) -> None:
    """Check what a request asks of all its items; `field` is where it says `max_steps`, `text` whether it is for text
    alone, and `whole` whether the answer comes at once.

    Raises: InvalidRequest, BatchTooLarge.
    """
    settings, engines = call.service.settings, call.service.engines
    if max_steps > settings.max_steps:
        message = f"{max_steps} steps; at most {settings.max_steps} here"
        raise InvalidRequest(message, field=field, limit=settings.max_steps)
    if items * forks > settings.max_items:
        message = f"{items * forks} choices; at most {settings.max_items} in one request"
        raise BatchTooLarge(message, field="n", limit=settings.max_items)
    steps = items * forks * max_steps
    if whole and steps > MAX_WHOLE_STEPS:
        message = f'{steps} steps of all choices; at most {MAX_WHOLE_STEPS} in one answer: ask for fewer, or "stream"'
        raise BatchTooLarge(message, field=field, limit=MAX_WHOLE_STEPS)
    if text and engines.for_task(engines.name(model, TASK), TASK).manifest.text is None:
        message = "the model has no tokenizer: it writes no text; take /v1/generate without stop"
        raise InvalidRequest(message, field="model")


def check_kind(call: Call, body: GenerateRequest) -> None:
    """Raises: InvalidRequest for a member that has no meaning for what the model writes; UnknownModel or WrongTask."""
    engines = call.service.engines
    manifest = engines.for_task(engines.name(body.model, TASK), TASK).manifest
    writes, foreign = ("points", OF_IDS) if isinstance(manifest.feedback, Mixture) else ("ids", OF_POINTS)
    for member in foreign:
        if member in body.model_fields_set:
            message = f"{manifest.name!r} draws {writes}, for which this has no meaning; leave {member} out"
            raise InvalidRequest(message, field=member)


async def open_all(
    call: Call,
    model: str | None,
    items: Sequence[GenerateItem],
    hold: Hold | None,
    precision: Precision,
    limit_s: float,
) -> tuple[Engine, list[Opening | RequestError], Timing]:
    """Run the prompts of one request together; return the engine of new sessions, and where each item begins, or why
    it cannot. They wait for room as long as `limit_s`; a request whose first row has none was refused at the door.

    Raises: what `begin_all` and `run_within` raise.
    """
    newest, starts, begun = await begin_all(call, TASK, model, items, limit_s)
    read = [attempt(_read, call, item, start, hold, precision) for item, start in zip(items, starts, strict=True)]
    prompts = [one for one in read if isinstance(one, _Prompt)]
    for engine, rows in Counter(prompt.engine for prompt in prompts).items():
        await engine.batcher.wait_for_room(call.tenant, rows=rows, timeout_s=limit_s)
    outcomes, timing = await run_within(call, prompts, limit_s)
    ran = iter(zip(prompts, outcomes, strict=True))
    openings = [_opening(*next(ran)) if isinstance(one, _Prompt) else one for one in read]
    return newest, openings, in_turn(begun, timing)


def _read(
    call: Call, item: GenerateItem, start: Start | RequestError, hold: Hold | None, precision: Precision
) -> _Prompt | Opening:
    """Raises: RequestError where the item does not begin, cannot be read, or leads to a state that cannot be kept."""
    if isinstance(start, RequestError):
        raise start
    point = start.point
    call.service.sessions.holds(point, hold, precision)
    if item.text or item.inputs is not None or item.values is not None or first_step(point) is not None:
        return _Prompt(point.engine, *read_row(item, point, call.service.settings), start)
    if point.step:
        return Opening(point)
    manifest = point.engine.manifest
    step = start_step(manifest)
    if step is None:
        what = "a prompt" if manifest.text is not None else "values"
        message = f"nothing to begin with; give {what} or a state: {manifest.name!r} declares no id to start with"
        raise InvalidRequest(message)
    return _Prompt(point.engine, Row(step), None, start)


def _opening(prompt: _Prompt, outcome: Answer | RequestError) -> Opening | RequestError:
    if isinstance(outcome, RequestError):
        return outcome
    encoding, steps = prompt.row.encoding, len(prompt.row.steps)
    point = prompt.start.point.after(steps, outcome.state)
    if encoding is not None:
        vocabulary = prompt.engine.model.vocabulary
        assert vocabulary is not None
        prompt.engine.metrics.text_read(vocabulary.unknown_ratio(encoding.ids))
    return Opening(point, steps, prompt.start.doubts)
