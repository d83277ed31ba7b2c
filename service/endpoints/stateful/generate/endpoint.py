"""POST /v1/generate: sequences that a model writes, each from a prompt, a state, or nothing.

The state that comes back is after all that was written: it goes on with the next request, here or on another replica,
and using it twice is a fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body

from service.endpoints.stateful.generate.events import Events
from service.endpoints.stateful.generate.generation import Fork, Generation, Wanted, choice
from service.endpoints.stateful.generate.openings import Opening, check, check_kind, open_all
from service.endpoints.stateful.generate.schema import EXAMPLES, GenerateAnswer, GenerateRequest
from service.endpoints.stateful.generate.searching import check_search, search_all
from service.endpoints.stateful.generate.shown import States, hand_out, show_end, take_news
from service.endpoints.stateful.step_json import STATE_ERRORS
from service.errors import InvalidRequest, ItemTooLarge, NotFinite, RequestError, SessionTooLong, WrongTask
from service.web.answers import Reply
from service.web.batch import Partial, Results, check_states, reply, timeout_s
from service.web.context import Call
from service.web.error_examples import run_errors
from service.web.error_shapes import error_object
from service.web.events import EventStream
from service.web.routes import BodyRoute

NOT_HERE = "'forecast-live' is for task 'step'; for 'generate' there is charlm, charlm-int8, handwriting, translate"
ERRORS = run_errors(
    "items",
    *STATE_ERRORS,
    ItemTooLarge("the text has 100001 characters; at most 100000", field="items[0].prompt", limit=100_000),
    InvalidRequest("5000 steps; at most 4096 here", field="max_steps", limit=4096),
    NotFinite("items[0].values[1] is not a finite number", field="items[0].values[1]"),
    SessionTooLong("5 steps; the session may take 4 more", field="items[0].prompt", limit=4),
    WrongTask(NOT_HERE, field="model"),
)
EVENTS = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'data: {"index":0,"choice":0,"text":"T"}\n\n'
        'data: {"index":0,"choice":0,"text":"o","seed":1,"steps":2,"finish":"length","version":"4","state":"...",'
        '"step":9,"expires_at":"2026-01-02T00:00:00Z"}\n\n'
        'data: {"model":"charlm","version":"4","summary":{"ok":1,"failed":0},"usage":{"rows":3,"steps":9,'
        '"padded_steps":9,"batch_rows":1},"timing_ms":{"queue":0.1,"run":1.2,"total":2.1}}\n\n',
    }
}
router = APIRouter(route_class=BodyRoute, tags=["stateful"], responses={**ERRORS, 200: {"content": EVENTS}})


@router.post("/v1/generate", response_model=GenerateAnswer, summary="Generate sequences")
async def generate(
    call: Call, body: Annotated[GenerateRequest, Body(openapi_examples=EXAMPLES)]
) -> Reply | EventStream:
    """Draw ids one after the other and feed each as the next step. Sequences share runs; items fail alone.

    With `beams` the likeliest sequences are searched for instead. A model of handwriting draws points of a pen.

    With `stream` the answer is server-sent events: what each choice adds as it comes, with its last its state; an error
    where an item fails; and at the end what the answer cost.
    """
    limit_s = timeout_s(body, call.service.settings.timeout_ms)
    if body.state_every is not None and not body.stream:
        raise InvalidRequest('states come along with "stream": true; leave state_every out', field="state_every")
    check_search(body)
    check_kind(call, body)
    check(
        call,
        body.model,
        items=len(body.items),
        forks=body.beams or body.n,
        max_steps=body.max_steps,
        field="max_steps",
        text=bool(body.stop),
        whole=not body.stream,
    )
    newest, openings, opened = await open_all(call, body.model, body.items, body.hold, body.precision, limit_s)
    check_states([one.point.state for one in openings if isinstance(one, Opening)], body.beams or body.n, "n")
    if body.beams is not None:
        results, timing = await search_all(call, body, openings, opened, limit_s)
        return reply(call, body, newest, results, timing)
    if body.state_every is not None:
        _check_carried(call, body, openings)
    generation = Generation(call, _wanted(body), openings, opened, limit_s)
    if body.stream and generation.forks:
        events = Events(call, body, newest, openings, generation)
        return EventStream(call, events.written(), lambda error: error_object(call.request_id, error)[1])
    with generation.under_way():
        while generation.live:
            await generation.turn()
    states = await hand_out(call, generation.forks, body.hold, body.precision)
    results = await _results(openings, generation.forks, states, svg=body.svg)
    return reply(call, body, newest, results, generation.timing)


def _check_carried(call: Call, body: GenerateRequest, openings: Sequence[Opening | RequestError]) -> None:
    """Raises: InvalidRequest when the server would hold the states on the way: they would drive out those of others."""
    sessions, points = call.service.sessions, [one.point for one in openings if isinstance(one, Opening)]
    if any(sessions.holds(point, body.hold, body.precision) for point in points):
        message = (
            'the server would hold each of these states; leave state_every out, or let tokens carry them ("hold": '
        )
        raise InvalidRequest(f'{message}"client") where they are small enough', field="state_every")


def _wanted(body: GenerateRequest) -> Wanted:
    return Wanted(
        choice(body.temperature, body.top_k, body.top_p),
        max_steps=body.max_steps,
        forks=body.n,
        seed=body.seed,
        stops=body.stop,
        likely=0 if body.probabilities else None,
        pause=body.state_every,
        bias=body.bias,
    )


async def _results(
    openings: Sequence[Opening | RequestError], forks: Sequence[Fork], states: States, *, svg: bool
) -> Results:
    """Return what is shown of each item: its choices, and the first error that came in between.

    Between choices others have their turn: of many, or long ones, they take a while.
    """
    results: list[Any] = [{"choices": []} if isinstance(opening, Opening) else opening for opening in openings]
    for fork in forks:
        results[fork.item]["choices"].append(
            {"choice": fork.number, **take_news(fork), **show_end(fork, svg=svg), **states[fork]}
        )
        await asyncio.sleep(0)
    for fork in reversed(forks):
        if fork.error is not None:
            known = results[fork.item]
            results[fork.item] = Partial(known.shown if isinstance(known, Partial) else known, fork.error)
    return results
