"""The likeliest sequences of a request, which are searched for instead of drawn.

It knows openings and searches, not how a request came in. Invariant: a sequence's state is after the ids that are told
of it, so that it can be continued and forked as one that was drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.batching.submission import Timing
from service.contract.parts import Feedback
from service.endpoints.stateful.generate.openings import Opening
from service.endpoints.stateful.generate.schema import GenerateRequest
from service.endpoints.stateful.step_json import show_carried
from service.engine.rows import Row
from service.engine.search import Hypothesis, Likeliest, Search
from service.errors import InvalidRequest, ModelFailed, RequestError, SessionTooLong, attempt
from service.model.decoding import Decoding
from service.model.vocabulary import Vocabulary
from service.state.sessions import Carried, steps_left
from service.web.batch import Results, in_turn
from service.web.context import Call
from service.web.searches import SearchJob, run_searches

log = logging.getLogger("baton.generation")

OF_DRAWING = ("temperature", "top_k", "top_p", "seed", "stop", "probabilities", "stream", "state_every")


@dataclass(slots=True)
class _Search(SearchJob):
    """The search for ways on from where an item begins."""

    opening: Opening


def check_search(body: GenerateRequest) -> None:
    """Raises: InvalidRequest for members that a search has no use for, or more choices than it follows."""
    if body.beams is None:
        if "length_penalty" in body.model_fields_set:
            raise InvalidRequest("compares what is searched for; give beams, or leave it out", field="length_penalty")
        return
    for member in OF_DRAWING:
        if member in body.model_fields_set:
            raise InvalidRequest(f"beams search and draw nothing; leave {member} out", field=member)
    if body.n > body.beams:
        message = f"{body.n} choices; a search gives at most as many as beams, {body.beams}"
        raise InvalidRequest(message, field="n", limit=body.beams)


async def search_all(
    call: Call, body: GenerateRequest, openings: Sequence[Opening | RequestError], opened: Timing, limit_s: float
) -> tuple[Results, Timing]:
    """Search from each opening; return what is shown of each item, and where the time went, that of `opened` too.

    Raises: what `run_searches` raises.
    """
    jobs = [one if isinstance(one, RequestError) else attempt(_job, call, body, one) for one in openings]
    found, timing = await run_searches(call, jobs, limit_s, keep_states=True)
    results: list[Any] = [*found]
    for place, job in enumerate(found):
        if isinstance(job, _Search):
            try:
                results[place] = {"choices": await _choices(call, body, job)}
            except RequestError as error:
                results[place] = error
    return results, in_turn(opened, timing)


def _job(call: Call, body: GenerateRequest, opening: Opening) -> _Search:
    """Raises: SessionTooLong where the session may take no step; InvalidRequest where an older version draws points."""
    assert body.beams is not None
    point = opening.point
    feedback = point.engine.manifest.feedback
    if not isinstance(feedback, Feedback):
        raise InvalidRequest("the version that made the state draws points; beams search ids", field="state")
    assert point.state is not None
    left = steps_left(point, call.service.settings)
    if not left:
        raise SessionTooLong("1 steps; the session may take 0 more", limit=0)
    most = min(body.max_steps, left)
    search = Search(Likeliest(body.beams, body.length_penalty, most, feedback.end))
    search.begin(point.state, [])
    return _Search(point.engine, Row(search=search), None, search, opening)


async def _choices(call: Call, body: GenerateRequest, job: _Search) -> list[dict[str, Any]]:
    """Return the best of what was found, each with its state.

    Raises: what `Sessions.hand_out` returns; ModelFailed where the tokenizer fails.
    """
    best = job.search.best[: body.n]
    points = [job.opening.point.after(len(one.ids), one.state) for one in best]
    choices = []
    carried = await call.hand_out(points, hold=body.hold, precision=body.precision)
    for number, (one, point, state) in enumerate(zip(best, points, carried, strict=True)):
        if not isinstance(state, Carried):
            raise state
        choices.append({"choice": number, **_shown(job, one, body.length_penalty), **show_carried(point, state)})
    return choices


def _shown(job: _Search, found: Hypothesis, length_penalty: float) -> dict[str, Any]:
    vocabulary, ids = job.engine.model.vocabulary, [*found.ids]
    return {
        **({"ids": ids} if vocabulary is None else {"text": _text(vocabulary, job.opening, ids)}),
        "score": round(found.score(length_penalty), 4),
        "steps": len(ids),
        "finish": "end" if found.ended else "length",
        **({"warnings": job.opening.doubts} if job.opening.doubts else {}),
        "version": job.engine.manifest.version,
    }


def _text(vocabulary: Vocabulary, opening: Opening, ids: Sequence[int]) -> str:
    """Raises: ModelFailed where the tokenizer fails."""
    decoding = Decoding(vocabulary.tokenizer, opening.ids, ())
    try:
        for token in ids:
            decoding.add(token)
    except Exception as failure:  # the library raises bare Exceptions
        log.exception("ids could not be made text")
        raise ModelFailed("the tokenizer fails on what was found; the log has the cause") from failure
    decoding.end()
    return decoding.take()
