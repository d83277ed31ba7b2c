"""One model version at work: rows in, answers out, in shared runs.

It knows manifests, rows and texts, not HTTP and not tokens. Invariant: a row's answer does not depend on its neighbours
beyond float rounding (`service.engine.probe` sees to it before the first request).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from tokenizers import Encoding

from service.batching.batcher import Batcher
from service.contract.tensors import LARGEST_FLOAT
from service.engine.drawing import Draw, Expected, draw, expect
from service.errors import (
    EmptyInput,
    ItemTooLarge,
    ModelFailed,
    NotFinite,
    RequestError,
    SessionTooLong,
)
from service.metrics import ModelMetrics
from service.model.forward import Forward
from service.model.layout import StateLayout
from service.model.onnx_session import Array
from service.model.repository import LazyModel, Model
from service.model.vocabulary import Words
from service.settings import Settings

log = logging.getLogger("baton.engine")

NO_STEPS: Array = np.empty(0)
MOST_DRAWN = 6  # steps of a row in one run: what hands a run from thread to thread costs as much as a step
DRIVEN_OFF = "these inputs drive the model to values that are not finite; are they in a sensible range?"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A step that was drawn and run: its id, the state after it, and what was expected where that was asked for."""

    id: int
    state: bytes
    expected: Expected | None


@dataclass(slots=True, eq=False)
class Row:
    """A sequence to run: `steps`, or a `text` whose tokens will be the steps, or steps to draw one after the other.

    `state` is what an earlier answer returned, None a new session's; `steps_left` is how many the session may yet
    take. A text may come split into words; one of more than `max_tokens` is cut when `cut`, refused otherwise.
    `encoding` is set once the text has been tokenised. Steps are drawn by `draws`, each from the state after the one
    before; `drawn` are those that were, fewer where the sequence ended or the next of them fails.
    `others` are what the row gives to the inputs beside the sequence, in the manifest's order; those with time have as
    many steps.

    Shapes: steps [time] or [time, features], where time is 1 if no input has a time axis; others [time, *sizes], or
    [*sizes] for an input without time.
    """

    steps: Array = field(default_factory=lambda: NO_STEPS)
    state: bytes | None = None
    steps_left: int = sys.maxsize
    text: str | Words | None = None
    draws: Sequence[Draw] = ()
    max_tokens: int = 0
    cut: bool = False
    encoding: Encoding | None = None
    drawn: list[Drawn] = field(default_factory=list)
    others: tuple[Array, ...] = ()

    @property
    def reached(self) -> bytes | None:
        """The state after the steps that were drawn so far."""
        return self.drawn[-1].state if self.drawn else self.state


@dataclass(slots=True)
class Answer:
    """The outputs of the model for a row, and its `state` after it: all states, little-endian, in manifest order.

    Of a row whose steps are drawn they are those of the first; its `Row.drawn` has the others.

    Shapes: outputs [time, *sizes], cut to the row's own steps, or [*sizes] where the graph's output has no time and an
    input has.
    """

    outputs: dict[str, Array]
    state: bytes


class Engine:
    """A model with its batcher: rows in, answers out.

    `Registry` sets `ends_ms`: the time when a retiring version ends, None for a version that stays. `most_drawn` is how
    many steps a row may have drawn.
    """

    def __init__(self, model: Model | LazyModel, settings: Settings, metrics: ModelMetrics) -> None:
        self.model, self.manifest, self.metrics = model, model.manifest, metrics
        self.ends_ms: int | None = None
        self._feedback = self.manifest.feedback
        self._must_be_finite = self.manifest.finite and self.manifest.sequence.dtype in LARGEST_FLOAT
        self.layout = StateLayout(self.manifest.carried)
        self.batch_cells = 1 if model.one_row else settings.batch_cells  # so that each run takes one row
        same_size = self.manifest.lengths is None and self.manifest.sequence.has_time
        self.most_drawn = 1 if same_size else MOST_DRAWN  # each step drawn has a run beside rows of one step alone
        self.batcher: Batcher[Row, Answer] = Batcher(
            self.run,
            prepare=self.prepare,
            batch_cells=self.batch_cells,
            queue_rows=settings.queue_rows,
            max_wait_s=settings.max_wait_ms / 1000,
            observer=metrics,
            threads=settings.worker_share(settings.run_threads),
            same_size=same_size,
            name=f"{self.manifest.name}-{self.manifest.version}",
        )

    @cached_property
    def _forward(self) -> Forward:
        return Forward(self.model.session, self.model.file, self.manifest)

    def prepare(self, rows: list[Row]) -> list[int | Exception]:
        """Tokenise the texts together and check every row; return its steps, or why it cannot be run.

        The first call loads the model, unless it was loaded before.
        """
        self._forward  # noqa: B018 - here, where one call comes at a time; runs may be several
        texts = [row for row in rows if row.text is not None]
        try:
            self._tokenise(texts)
        except Exception as failure:  # noqa: BLE001 - the library raises bare Exceptions; it is logged
            if len(rows) > 1:
                return [size for row in rows for size in self.prepare([row])]
            log.error("%s: a text could not be tokenised: %s", self.manifest.name, failure)
            return [ModelFailed("the tokenizer fails on this text; the log has the cause")]
        given = [row.steps.ravel() for row in rows if row.encoding is None] if self._must_be_finite else []
        finite = not given or bool(np.isfinite(np.concatenate(given)).all())  # a single call for all rows is cheaper
        return [self._admitted(row, self._size(row, finite)) for row in rows]

    def _admitted(self, row: Row, size: int | Exception) -> int | Exception:
        if isinstance(size, int) and size > row.steps_left:
            return SessionTooLong(f"{size} steps; the session may take {row.steps_left} more", limit=row.steps_left)
        return size

    def _tokenise(self, rows: list[Row]) -> None:
        if rows:
            vocabulary = self.model.vocabulary
            assert vocabulary is not None
            marked, placed = self.manifest.adds_special_tokens, self.manifest.needs_offsets
            encodings = vocabulary.encode([row.text or "" for row in rows], marked=marked, placed=placed)
            for row, encoding in zip(rows, encodings, strict=True):
                row.encoding = encoding

    def _size(self, row: Row, finite: bool) -> int | Exception:
        if row.draws:
            return len(row.draws)
        if row.encoding is None:
            if finite or np.isfinite(row.steps).all():
                return len(row.steps)
            dtype = self.manifest.sequence.dtype
            return NotFinite(f"a value is not finite, or beyond the range of {dtype}, {LARGEST_FLOAT[dtype]:.2g}")
        ids = row.encoding.ids
        if not ids:
            return EmptyInput("the text has no words; give at least one")
        if len(ids) > row.max_tokens and not row.cut:
            message = f"the text has {len(ids)} tokens; at most {row.max_tokens}"
            return ItemTooLarge(message, limit=row.max_tokens)
        assert row.text is not None
        assert self.model.vocabulary is not None
        row.steps = self.model.vocabulary.steps(row.text, row.encoding, row.max_tokens, self.manifest.sequence.dtype)
        return len(row.steps)

    def run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together, then those of which more steps are to be drawn, until all are.

        Where a step after a row's first fails, its steps before that count; who draws on from there learns why.
        """
        answers = self._run(rows)
        going = [row for row, answer in zip(rows, answers, strict=True) if row.draws and isinstance(answer, Answer)]
        while going := [row for row in going if self._goes_on(row)]:
            made = self._run(going)
            going = [row for row, answer in zip(going, made, strict=True) if isinstance(answer, Answer)]
        return answers

    def _goes_on(self, row: Row) -> bool:
        assert self._feedback is not None
        return len(row.drawn) < len(row.draws) and row.drawn[-1].id != self._feedback.end

    def _run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together; if that fails, run each row alone, so that only the rows at fault fail."""
        try:
            expected = self._draw([row for row in rows if row.draws])
            others = [row.others for row in rows] if self.manifest.others else []
            outputs, after, finite = self._forward.run(
                [row.steps for row in rows], [row.reached for row in rows], others
            )
        except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; it is logged
            if len(rows) > 1:
                return [answer for row in rows for answer in self._run([row])]
            if isinstance(failure, RequestError):
                return [failure]
            log.error("%s: the run of one row failed: %s", self.manifest.name, failure)
            error = ModelFailed("the model fails on this input; the log has the cause")
            error.__cause__ = failure
            return [error]
        for row, state, sound in zip(rows, after, finite, strict=True):
            if row.draws and sound:
                row.drawn.append(Drawn(int(row.steps[0]), state, expected.get(row)))
        return [
            Answer(made, state) if sound else NotFinite(DRIVEN_OFF)
            for made, state, sound in zip(outputs, after, finite, strict=True)
        ]

    def _draw(self, rows: list[Row]) -> dict[Row, Expected]:
        """Draw the next steps of `rows` from what the last steps of their sessions made, which their states hold.

        Returns what was expected of those of which that is asked for.

        Raises: NotFinite where that cannot be done.
        """
        expected: dict[Row, Expected] = {}
        if not rows:
            return expected
        assert self._feedback is not None
        form = self._feedback.form
        draws = [row.draws[len(row.drawn)] for row in rows]
        states = b"".join([row.reached or self.layout.new for row in rows])
        made: Array = np.frombuffer(states, self.layout.dtype)[self._feedback.output]
        drawn = draw(made, form, draws).astype(self.manifest.sequence.dtype)
        for row, wanted, of_row, step in zip(rows, draws, made, drawn[:, None], strict=True):
            row.steps = step
            if wanted.likeliest is not None:
                expected[row] = expect(of_row, form, int(step[0]), wanted.likeliest)
        return expected

    def recent(self, state: bytes) -> list[int]:
        """Return the last ids before `state`, for a model that has feedback and texts."""
        assert self.manifest.recent is not None
        ids: list[int] = self.layout.unpack(state)[self.manifest.recent.input].tolist()
        return [token for token in ids if token >= 0]
