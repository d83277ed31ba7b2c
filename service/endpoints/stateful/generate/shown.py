"""What is shown of generated sequences: what each is after its last id, and what came since the last event.

It knows forks and how states are carried, not how a request came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.endpoints.stateful.generate.generation import Fork
from service.endpoints.stateful.generate.strokes import draw_strokes
from service.endpoints.stateful.step_json import show_carried
from service.state.sessions import Carried, Hold, Precision
from service.web.context import Call

States = dict[Fork, dict[str, Any]]


async def hand_out(call: Call, forks: Sequence[Fork], hold: Hold | None, precision: Precision) -> States:
    """Return what is shown of the state of each sequence; one whose state cannot be handed out ends with the error."""
    carried = await call.hand_out([fork.point for fork in forks], hold=hold, precision=precision) if forks else []
    shown: States = {}
    for fork, one in zip(forks, carried, strict=True):
        if isinstance(one, Carried):
            shown[fork] = {"version": fork.engine.manifest.version, **show_carried(fork.point, one)}
        else:
            shown[fork] = {}
            fork.fail(fork.error or one)
    return shown


def take_news(fork: Fork) -> dict[str, Any]:
    """Return what came since the last call: points, text, or ids, and how likely ids were held where that is kept."""
    if fork.writes_points:
        points, fork.traced = fork.trace[fork.traced :], len(fork.trace)
        return {"points": points}
    ids, likely = fork.ids, fork.likely
    fork.ids, fork.likely = [], []
    news: dict[str, Any] = {"ids": ids} if fork.decoding is None else {"text": fork.decoding.take()}
    return {**news, "probabilities": [each.share for each in likely]} if likely else news


def show_end(fork: Fork, *, svg: bool) -> dict[str, Any]:
    """Return how a sequence ended, what makes it doubtful, and where it is wanted a picture of what was written."""
    end: dict[str, Any] = {"seed": fork.seed, "steps": fork.steps, "finish": fork.finish}
    if fork.doubts:
        end["warnings"] = fork.doubts
    return {**end, "svg": draw_strokes(fork.trace)} if svg else end
