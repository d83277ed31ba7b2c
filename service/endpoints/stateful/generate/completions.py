"""POST /v1/completions: generation in the form of OpenAI's API, for its clients.

A choice also has the session's state: a request that carries it goes on from there, whatever became of the replica that
made it. A request stands or falls as a whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, ClassVar

from fastapi import APIRouter, Body
from pydantic_core import to_json

from service.endpoints.stateful.generate.completion_errors import completion_error
from service.endpoints.stateful.generate.completion_schema import (
    DEFAULT_TOKENS,
    EXAMPLES,
    Completion,
    CompletionError,
    CompletionRequest,
)
from service.endpoints.stateful.generate.completion_shown import Shown
from service.endpoints.stateful.generate.generation import Generation, Wanted, choice
from service.endpoints.stateful.generate.openings import Opening, check, open_all
from service.endpoints.stateful.generate.schema import GenerateItem
from service.endpoints.stateful.generate.shown import hand_out
from service.endpoints.stateful.step_json import STATE_ERRORS
from service.errors import InvalidRequest, ItemTooLarge, RequestError, SessionTooLong, WrongTask
from service.state.sessions import null_state
from service.web.answers import WholeAnswer, server_timing
from service.web.batch import check_states, note, timeout_s
from service.web.bodies import JSON, Reader, read_json_whole
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.events import EventStream, event
from service.web.routes import BodyRoute


class CompletionRoute(BodyRoute):
    """A route whose requests stand or fall as a whole."""

    readers: ClassVar[dict[str, Reader]] = {JSON: read_json_whole}


ERRORS = run_errors(
    "prompt",
    *STATE_ERRORS,
    InvalidRequest("all that are made are given: best_of is n here, or left out", field="best_of"),
    ItemTooLarge("the text has 100001 characters; at most 100000", field="prompt", limit=100_000),
    SessionTooLong("5 steps; the session may take 4 more", field="prompt", limit=4),
    WrongTask(
        "'forecast-live' is for task 'step'; for 'generate' there is charlm, charlm-int8, handwriting, translate",
        field="model",
    ),
    shape=completion_error,
    answer=CompletionError,
)
EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'data: {"id":"cmpl-1","object":"text_completion","created":1767225600,"model":"charlm",'
        '"system_fingerprint":"charlm-4","choices":[{"index":0,"text":"T","finish_reason":null,"logprobs":null}]}\n\n'
        "data: [DONE]\n\n",
    }
}
DONE = b"data: [DONE]\n\n"
router = APIRouter(route_class=CompletionRoute, tags=["stateful"], responses={**ERRORS, 200: {"content": EVENTS}})


@router.post("/v1/completions", response_model=Completion, summary="Complete texts, in OpenAI's form")
async def complete(
    call: Call, body: Annotated[CompletionRequest, Body(openapi_examples=EXAMPLES)]
) -> WholeAnswer | EventStream:
    """Write on from each prompt, or from the state of an earlier choice; with `stream` as server-sent events."""
    limit_s = timeout_s(body, call.service.settings.timeout_ms)
    items, wanted = _items(body), _wanted(body)
    check(
        call,
        body.model,
        items=len(items),
        forks=wanted.forks,
        max_steps=wanted.max_steps,
        field="max_tokens",
        text=True,
        whole=not body.stream,
    )
    newest, openings, opened = await open_all(call, body.model, items, None, "float32", limit_s)
    ready = [_sound(body, item, opening) for item, opening in enumerate(openings)]
    check_states([one.point.state for one in ready], wanted.forks, "n")
    generation = Generation(call, wanted, ready, opened, limit_s)
    shown = Shown(call.request_id, body, newest, ready)
    if body.stream:
        return EventStream(call, _events(call, body, shown, generation), lambda error: completion_error("", error)[1])
    with generation.under_way():
        while generation.live:
            await generation.turn()
    states = await hand_out(call, generation.forks, None, "float32")
    for fork in generation.forks:
        if fork.error is not None:
            raise _placed(body, fork.item, fork.error)
    note(call, len(items), [])
    choices = []
    for fork in generation.forks:
        choices.append(shown.news(fork, states[fork]))
        await asyncio.sleep(0)  # others have their turn: many choices, or long ones, take a while
    content = {**shown.head, "choices": choices, "usage": shown.usage(generation.forks)}
    timing, total_s = generation.timing, time.monotonic() - call.started
    return WholeAnswer(to_json(content, bytes_mode="base64"), 200, [server_timing(timing, total_s)])


def _items(body: CompletionRequest) -> list[GenerateItem]:
    """Raises: InvalidRequest when the states are not as many as the prompts."""
    prompts, state = body.prompts, body.state
    if "state" in body.model_fields_set and state is None:
        raise null_state()
    if isinstance(state, list) and len(state) != len(prompts):
        raise InvalidRequest(f"{len(state)} states for {len(prompts)} prompts; give one for each", field="state")
    states = state if isinstance(state, list) else [state] * len(prompts)
    return [
        GenerateItem.model_validate({"prompt": prompt} if state is None else {"prompt": prompt, "state": state})
        for prompt, state in zip(prompts, states, strict=True)
    ]


def _wanted(body: CompletionRequest) -> Wanted:
    """Raises: InvalidRequest for members that do not go together."""
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("the prompt that echo gives back has no logprobs here; leave one out", field="logprobs")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequest("all that are made are given: best_of is n here, or left out", field="best_of")
    return Wanted(
        choice(body.temperature, None, body.top_p),
        max_steps=body.max_tokens or DEFAULT_TOKENS,
        forks=body.n or 1,
        seed=body.seed,
        stops=body.stops,
        likely=body.logprobs,
    )


def _sound(body: CompletionRequest, item: int, opening: Opening | RequestError) -> Opening:
    """Raises: why the item does not begin."""
    if isinstance(opening, RequestError):
        raise _placed(body, item, opening)
    return opening


def _placed(body: CompletionRequest, item: int, error: RequestError) -> RequestError:
    """Return the error of a prompt with its place in the request."""
    error.field = error.field or "prompt"
    if isinstance(getattr(body, error.field, None), list):
        error.field = f"{error.field}[{item}]"
    return error


async def _events(call: Call, body: CompletionRequest, shown: Shown, generation: Generation) -> AsyncGenerator[bytes]:
    """Yield what each choice adds after each turn, as it is written.

    Raises: what came in between, once the states are told.
    """
    with generation.under_way():
        while generation.live:
            turned = await generation.turn()
            states = await hand_out(call, [fork for fork in turned if fork.finish], None, "float32")
            news = [shown.news(fork, states.get(fork)) for fork in turned if fork in states or fork.has_text]
            yield b"".join(event({**shown.head, "choices": [choice]}) for choice in news)
    failed = {fork.item: fork.error for fork in reversed(generation.forks) if fork.error is not None}
    errors = [_placed(body, item, error) for item, error in sorted(failed.items())]
    note(call, len(body.prompts), errors)
    if errors:
        raise errors[0]
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event({**shown.head, "choices": [], "usage": shown.usage(generation.forks)})
    yield DONE
