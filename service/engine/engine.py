"""One model version at work: rows in, answers out, in shared runs.

It knows manifests, rows and texts, not HTTP and not tokens. Invariant: a row's answer does not depend on its neighbours
beyond float rounding (`service.engine.probe` sees to it before the first request).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from service.batching.batcher import Batcher, shutting_down
from service.contract.tensors import LARGEST_FLOAT
from service.engine.feeding import Lane, find_feeder
from service.engine.rows import Answer, Row
from service.errors import (
    EmptyInput,
    ItemTooLarge,
    ModelFailed,
    NotFinite,
    RequestError,
    SessionTooLong,
)
from service.metrics import ModelMetrics
from service.model.forward import Forward, Made
from service.model.layout import StateLayout
from service.model.repository import LazyModel, Model
from service.settings import Settings

log = logging.getLogger("baton.engine")

MOST_DRAWN = 6  # steps of a row in one run: what hands a run from thread to thread costs as much as a step
ENTRIES_A_CELL = 16  # of padded memory that count as a cell: they take room, not time; of `translate` 100 MB a run
RUN_ROWS, RUN_CELLS = 64, 32_768  # of rows that wait for no others: with more, what is worked on leaves the cache
DRIVEN_OFF = "these inputs drive the model to values that are not finite; are they in a sensible range?"


class Engine:
    """A model with its batcher: rows in, answers out.

    `Registry` sets `ends_ms`: the time when a retiring version ends, None for a version that stays. `most_drawn` is how
    many steps a row may have drawn. `starter` is the engine of the model's start graph, where it has one. Once `fenced`
    it takes no row any more.
    """

    def __init__(self, model: Model | LazyModel, settings: Settings, metrics: ModelMetrics) -> None:
        self.model, self.manifest, self.metrics = model, model.manifest, metrics
        self.ends_ms: int | None = None
        self.fenced = False
        self._begun: dict[int, float] = {}  # of the calls into native code under way, by their threads
        self._must_be_finite = self.manifest.finite and self.manifest.sequence.dtype in LARGEST_FLOAT
        self.layout = StateLayout(self.manifest.carried)
        self._feeder = find_feeder(self.manifest, self.layout)
        self.batch_cells = 1 if model.one_row else settings.batch_cells  # so that each run takes one row
        self._same_size = self.manifest.lengths is None and self.manifest.sequence.has_time
        self.most_drawn = 1 if self._same_size else MOST_DRAWN  # else its steps would share runs with longer rows
        self.batcher: Batcher[Row, Answer] = Batcher(
            self.run,
            prepare=self.prepare,
            batch_cells=self.batch_cells,
            queue_rows=settings.queue_rows,
            max_wait_s=settings.max_wait_ms / 1000,
            observer=metrics,
            threads=settings.worker_share(settings.run_threads),
            same_size=self._same_size,
            name=f"{self.manifest.name}-{self.manifest.version}",
        )
        self.starter = None if model.starter is None else Engine(model.starter, settings, metrics.of_start_graph())

    def start(self) -> None:
        """Begin to work, on the event loop that is running."""
        for engine in self.parts:
            engine.batcher.start()

    async def drain(self, refusal: Callable[[], RequestError] = shutting_down) -> None:
        """Refuse new rows with what `refusal` makes, answer the queued ones, then stop."""
        await asyncio.gather(*(engine.batcher.drain(refusal) for engine in self.parts))

    def fence(self, refusal: Callable[[], RequestError], failure: Callable[[], RequestError]) -> None:
        """Refuse rows with what `refusal` makes, and those that run with what `failure` makes; wait for no run."""
        self.fenced = True
        for engine in self.parts:
            engine.batcher.abandon(refusal, failure)

    @property
    def running_since(self) -> float | None:
        """When the oldest call into native code began that has not returned, for any graph of the version.

        Units: seconds of `time.monotonic`.
        """
        return min((began for engine in self.parts for began in list(engine._begun.values())), default=None)

    @contextmanager
    def _in_native_code(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._begun[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[thread]

    @property
    def alive(self) -> bool:
        return all(engine.batcher.alive for engine in self.parts)

    @property
    def parts(self) -> list[Engine]:
        """The engines of the version's graphs, in the order in which a session comes to them."""
        return [self] if self.starter is None else [self.starter, self]

    def begun(self, answer: Answer) -> bytes:
        """Return the state of a session that begins with what the start graph made."""
        assert self.manifest.start is not None
        assert self.starter is not None
        made, timed = answer.outputs, self.starter.manifest.sequence.has_time
        begun = {name: made[output] for name, output in self.manifest.start.states.items()}
        return self.layout.begin(begun if timed else {name: values[0] for name, values in begun.items()})

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
            with self._in_native_code():
                encodings = vocabulary.encode([row.text or "" for row in rows], marked=marked, placed=placed)
            for row, encoding in zip(rows, encodings, strict=True):
                row.encoding = encoding

    def _size(self, row: Row, finite: bool) -> int | Exception:
        if row.draws:
            return len(row.draws)
        if row.search is not None:
            opening = 0 if row.search.begun else len(row.steps)
            if self._same_size:
                return opening or 1  # what its first run takes: nothing longer may share that
            return opening + row.search.wanted.beams * (row.search.until - row.search.steps)
        if row.encoding is None:
            if finite or np.isfinite(row.steps).all():
                return len(row.steps)
            dtype = self.manifest.sequence.dtype
            return NotFinite(f"a value is not finite, or beyond the range of {dtype}, {LARGEST_FLOAT[dtype]:.2g}")
        ids = row.encoding.ids
        if not ids and row.first is None:
            return EmptyInput("the text has no words; give at least one")
        most = row.max_tokens - (0 if row.first is None else len(row.first))
        if len(ids) > most and not row.cut:
            return ItemTooLarge(f"the text has {len(ids)} tokens; at most {most}", limit=most)
        assert row.text is not None
        assert self.model.vocabulary is not None
        dtype = self.manifest.sequence.dtype
        row.steps = self.model.vocabulary.steps(row.text, row.encoding, most, dtype)
        if row.first is not None:
            row.steps = np.concatenate([row.first.ravel(), row.steps])
        return len(row.steps)

    def run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together, then those of which more steps are to be drawn, until all are.

        Where a step after a row's first fails, its steps before that count; who goes on from there learns why.
        """
        answers = self._run(rows)
        if self._feeder is None:
            return answers
        going = [row for row, answer in zip(rows, answers, strict=True) if isinstance(answer, Answer)]
        while going := [row for row in going if self._feeder.goes_on(row)]:
            made = self._run(going)
            going = [row for row, answer in zip(going, made, strict=True) if isinstance(answer, Answer)]
        return answers

    def run_alone(self, rows: Sequence[Row]) -> list[Answer | Exception]:
        """Prepare and run rows on an engine that nobody else uses, those of like length together; no queue is asked."""
        found: list[Any] = [*self.prepare([*rows])]
        for places in self._cut({place: size for place, size in enumerate(found) if isinstance(size, int)}):
            for place, answer in zip(places, self.run([rows[place] for place in places]), strict=True):
                found[place] = answer
        return found

    def _cut(self, sizes: Mapping[int, int]) -> Iterator[list[int]]:
        """Yield the places of rows that run together; `sizes` are their steps."""
        run: list[int] = []
        for place in sorted(sizes, key=sizes.__getitem__):
            size = sizes[place]
            full = len(run) == RUN_ROWS or (len(run) + 1) * size > RUN_CELLS or self.batch_cells == 1
            if run and (full or (self._same_size and size != sizes[run[0]])):
                yield run
                run = []
            run.append(place)
        if run:
            yield run

    def _run(self, rows: list[Row]) -> list[Answer | Exception]:
        """Run rows together; if that fails, run each row alone, so that only the rows at fault fail."""
        try:
            fed = self._feeder.feed(rows) if self._feeder else [[(row.steps, row.state)] for row in rows]
            made = iter(self._forward_all([lane for of_row in fed for lane in of_row], rows))
        except Exception as failure:  # noqa: BLE001 - onnxruntime's exceptions share no public base; it is logged
            if len(rows) > 1:
                return [answer for row in rows for answer in self._run([row])]
            if isinstance(failure, RequestError):
                return [failure]
            log.error("%s: the run of one row failed: %s", self.manifest.name, failure)
            error = ModelFailed("the model fails on this input; the log has the cause")
            error.__cause__ = failure
            return [error]
        return [self._take(row, [*islice(made, len(of_row))]) for row, of_row in zip(rows, fed, strict=True)]

    def _forward_all(self, lanes: Sequence[Lane], rows: Sequence[Row]) -> list[Made]:
        """Run what is fed, in several runs where the queue could not know how much hypotheses or memories would be."""
        others = [row.others for row in rows] if self.manifest.others else []
        within = len(lanes) == len(rows) and not self.layout.entry_size
        made: list[Made] = []
        while (begin := len(made)) < len(lanes):  # there may be none: all hypotheses may have ended
            end = len(lanes) if within else self._fit(lanes, begin)
            steps, states = zip(*lanes[begin:end], strict=True)
            with self._in_native_code():
                made += self._forward.run(steps, states, others[begin:end])
        return made

    def _fit(self, lanes: Sequence[Lane], begin: int) -> int:
        """Return the end of the lanes that fit into a run with the first of them."""
        longest = entries = 0
        for place in range(begin, len(lanes)):
            steps, state = lanes[place]
            longest, entries = max(longest, len(steps)), max(entries, self.layout.entries(state or b""))
            count = place + 1 - begin
            if count > 1 and max(count * longest, count * entries // ENTRIES_A_CELL) > self.batch_cells:
                return place
        return len(lanes)

    def _take(self, row: Row, made: Sequence[Made]) -> Answer | Exception:
        """Take in what came of the steps that were fed to a row, and return its answer."""
        if not all(one.finite for one in made):
            return NotFinite(DRIVEN_OFF)
        if row.search is not None:
            weights = self.manifest.attention
            attention = [one.outputs[weights][-1] for one in made] if weights else []
            if row.search.begun:
                row.search.take([one.state for one in made], attention)
            else:
                row.search.begin(made[0].state, attention)
            return Answer({}, made[0].state if made else b"")
        (one,) = made
        if row.draws:
            assert self._feeder is not None
            row.drawn.append(self._feeder.drawn(row, one))
        return Answer(one.outputs, one.state)

    def recent(self, state: bytes) -> list[int]:
        """Return the last ids before `state`, for a model that has feedback and texts."""
        assert self.manifest.recent is not None
        ids: list[int] = self.layout.unpack(state)[self.manifest.recent.input].tolist()
        return [token for token in ids if token >= 0]
