"""What is fed to a model that writes: ids or points that are drawn, or ids that are searched for, from what the last
steps of sessions made.

It knows the feedback that a manifest declares, rows and states, not runs. Invariant: what is fed to a row depends on
its own state alone, and the row is as before until its run is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import numpy as np

from service.contract.manifest import Manifest
from service.contract.parts import Feedback, Mixture
from service.engine.drawing import Draw, check_drawable, draw, expect
from service.engine.points import PointDraw, draw_points
from service.engine.rows import Drawn, Row
from service.engine.search import log_probabilities
from service.model.forward import Made
from service.model.layout import StateLayout
from service.model.onnx_session import Array

FINISHED = 0.5  # what says that the writing is at its end, and above
Lane = tuple[Array, bytes | None]  # steps to run, and the state from which they go on


class Feeder(ABC):
    """Finds the next steps of rows, by the feedback of their model."""

    def __init__(self, manifest: Manifest, output: str, layout: StateLayout) -> None:
        self._dtype, self._output, self._layout = manifest.sequence.dtype, output, layout

    def feed(self, rows: Sequence[Row]) -> list[list[Lane]]:
        """Return what is run of each row: its steps, or that which is drawn.

        Raises: NotFinite where nothing can be drawn.
        """
        drawing = [row for row in rows if row.draws]
        if drawing:
            self._draw(drawing, self._made([row.reached or self._layout.new for row in drawing]))
        return [[(row.steps, row.reached)] for row in rows]

    def goes_on(self, row: Row) -> bool:
        """Return whether there is more to feed to a row that was run."""
        return len(row.drawn) < len(row.draws) and not row.drawn[-1].ends

    @abstractmethod
    def drawn(self, row: Row, made: Made) -> Drawn:
        """Return the step that was drawn for a row and run, which made this."""

    @abstractmethod
    def _draw(self, rows: Sequence[Row], made: Array) -> None:
        """Draw the next step of each row from what its last step made. Shapes: made [rows, numbers]."""

    def _made(self, states: Sequence[bytes]) -> Array:
        """Return what the last steps of sessions made. Shapes: [states, numbers]."""
        size = self._layout.size
        made: Array = np.frombuffer(b"".join([state[:size] for state in states]), self._layout.dtype)[self._output]
        return made


class _Ids(Feeder):
    """Ids are drawn, or searched for: then a row has a step of each hypothesis."""

    def __init__(self, manifest: Manifest, feedback: Feedback, layout: StateLayout) -> None:
        super().__init__(manifest, feedback.output, layout)
        self._form, self._end = feedback.form, feedback.end

    def feed(self, rows: Sequence[Row]) -> list[list[Lane]]:
        lanes = super().feed(rows)
        searched = self._search([row for row in rows if row.search is not None])
        return [searched.get(row, of_row) for row, of_row in zip(rows, lanes, strict=True)]

    def goes_on(self, row: Row) -> bool:
        if row.search is not None:
            return row.search.steps < row.search.until and not row.search.done
        return super().goes_on(row)

    def drawn(self, row: Row, made: Made) -> Drawn:
        (drawn,) = row.steps.tolist()
        return Drawn(drawn, made.state, drawn == self._end, row.expected)

    def _draw(self, rows: Sequence[Row], made: Array) -> None:
        draws = [cast(Draw, row.draws[len(row.drawn)]) for row in rows]
        drawn = draw(made, self._form, draws).astype(self._dtype)
        for row, wanted, of_row, step in zip(rows, draws, made, drawn[:, None], strict=True):
            row.steps = step
            told = wanted.likeliest
            row.expected = None if told is None else expect(of_row, self._form, int(step[0]), told)

    def _search(self, rows: Sequence[Row]) -> dict[Row, list[Lane]]:
        searches = [(row, row.search) for row in rows if row.search is not None]
        if not searches:
            return {}
        lanes: dict[Row, list[Lane]] = {row: [(row.steps, row.state)] for row, _ in searches}
        searches = [(row, search) for row, search in searches if search.begun]
        made = self._made([one.state for _, search in searches for one in search.live])
        check_drawable(made, self._form)
        logp, done = log_probabilities(made, self._form), 0
        for row, search in searches:
            chosen = search.choose(logp[done : done + len(search.live)])
            done += len(search.live)
            steps = np.array(chosen, self._dtype)[:, None]
            lanes[row] = [*zip(steps, search.states, strict=True)]
        return lanes


class _Points(Feeder):
    """Points are drawn, until an output says that the writing is finished."""

    def __init__(self, manifest: Manifest, mixture: Mixture, layout: StateLayout) -> None:
        super().__init__(manifest, mixture.output, layout)
        self._finished = mixture.finished

    def drawn(self, row: Row, made: Made) -> Drawn:
        ((right, up, ends),) = row.steps.tolist()
        finished = self._finished is not None and bool((made.outputs[self._finished][-1] >= FINISHED).all())
        return Drawn((right, up, int(ends)), made.state, finished)

    def _draw(self, rows: Sequence[Row], made: Array) -> None:
        draws = [cast(PointDraw, row.draws[len(row.drawn)]) for row in rows]
        for row, step in zip(rows, draw_points(made, draws).astype(self._dtype)[:, None], strict=True):
            row.steps = step


def find_feeder(manifest: Manifest, layout: StateLayout) -> Feeder | None:
    """Return what feeds a model that writes, None for one that does not."""
    if manifest.feedback is None:
        return None
    if isinstance(manifest.feedback, Mixture):
        return _Points(manifest, manifest.feedback, layout)
    return _Ids(manifest, manifest.feedback, layout)
