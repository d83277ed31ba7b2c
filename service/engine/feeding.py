"""What is fed to a model that writes: ids that are drawn or searched for, from what the last steps of sessions made.

It knows the feedback that a manifest declares, rows and states, not runs. Invariant: what is fed to a row depends on
its own state alone, and the row is as before until its run is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.contract.manifest import Manifest
from service.contract.parts import Feedback
from service.engine.drawing import check_drawable, draw, expect
from service.engine.rows import Row
from service.engine.search import log_probabilities
from service.model.layout import StateLayout
from service.model.onnx_session import Array

Lane = tuple[Array, bytes | None]  # steps to run, and the state from which they go on


class Feeder:
    """Finds the next steps of rows, by the feedback of their model."""

    def __init__(self, manifest: Manifest, feedback: Feedback, layout: StateLayout) -> None:
        self._dtype, self._output, self._form = manifest.sequence.dtype, feedback.output, feedback.form
        self._layout, self._end = layout, feedback.end

    def feed(self, rows: Sequence[Row]) -> list[list[Lane]]:
        """Return what is run of each row: its steps, that which is drawn, or a step of each hypothesis of a search.

        Raises: NotFinite where nothing can be drawn.
        """
        self._draw([row for row in rows if row.draws])
        searched = self._search([row for row in rows if row.search is not None])
        return [[(row.steps, row.reached)] if row.search is None else searched[row] for row in rows]

    def goes_on(self, row: Row) -> bool:
        """Return whether there is more to feed to a row that was run."""
        if row.search is not None:
            return row.search.steps < row.search.until and not row.search.done
        return len(row.drawn) < len(row.draws) and row.drawn[-1].id != self._end

    def _made(self, states: Sequence[bytes]) -> Array:
        """Return what the last steps of sessions made. Shapes: [states, ids]."""
        size = self._layout.size
        made: Array = np.frombuffer(b"".join([state[:size] for state in states]), self._layout.dtype)[self._output]
        return made

    def _draw(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        draws = [row.draws[len(row.drawn)] for row in rows]
        made = self._made([row.reached or self._layout.new for row in rows])
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
