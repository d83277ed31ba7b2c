"""What runs of a model take and give: rows and answers.

It knows arrays, texts and what may be drawn or searched for, not how runs are made.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Encoding

from service.engine.drawing import Draw, Expected
from service.engine.points import PenPoint, PointDraw
from service.engine.search import Search
from service.model.onnx_session import Array
from service.model.vocabulary import Words

NO_STEPS: Array = np.empty(0)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step that was drawn and run, an id or a point, and the state after it.

    `ends` says whether it ended the sequence, and `expected` what was expected, where that was asked for.
    """

    step: int | PenPoint
    state: bytes
    ends: bool
    expected: Expected | None = None


@dataclass(slots=True, eq=False)
class Row:
    """A sequence to run: `steps`, or a `text` whose tokens will be the steps, or steps to draw one after the other.

    `state` is what an earlier answer returned, None a new session's; `steps_left` is how many the session may yet
    take. A text may come split into words; one of more than `max_tokens` is cut when `cut`, refused otherwise; `first`
    are steps before those of its tokens. `encoding` is set once the text has been tokenised. Steps are drawn by
    `draws`, each from the state after the one before; `drawn` are those that were, fewer where the sequence ended or
    the next of them fails. A `search` begins after `steps`, and takes its own until it waits. `others` are what the row
    gives to the inputs beside the sequence, in the manifest's order; those with time have as many steps.

    Shapes: steps [time] or [time, features], where time is 1 if no input has a time axis; others [time, *sizes], or
    [*sizes] for an input without time.
    """

    steps: Array = field(default_factory=lambda: NO_STEPS)
    state: bytes | None = None
    steps_left: int = sys.maxsize
    text: str | Words | None = None
    draws: Sequence[Draw] | Sequence[PointDraw] = ()
    max_tokens: int = 0
    cut: bool = False
    first: Array | None = None
    encoding: Encoding | None = None
    drawn: list[Drawn] = field(default_factory=list)
    expected: Expected | None = None
    search: Search | None = None
    others: tuple[Array, ...] = ()

    @property
    def reached(self) -> bytes | None:
        """The state after the steps that were drawn so far."""
        return self.drawn[-1].state if self.drawn else self.state


@dataclass(slots=True)
class Answer:
    """The outputs of the model for a row, and its `state` after it: all states, little-endian, in manifest order.

    Of a row whose steps are drawn they are those of the first; its `Row.drawn` has the others. Of a search there are
    none; its `Row.search` has what was found.

    Shapes: outputs [time, *sizes], cut to the row's own steps, or [*sizes] where the graph's output has no time and an
    input has.
    """

    outputs: dict[str, Array]
    state: bytes
