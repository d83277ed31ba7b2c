"""How fast a queue is served: the time that one of its rows takes, measured from the runs.

It knows counts and times, not rows. Invariant: rows of unequal cost count by what they took together, so that many
short rows and a few long ones give the time of the row between them, whichever share their runs.
"""

from __future__ import annotations

SMOOTHING = 0.2  # weight of the newest run; under overload runs take long, and the pace must follow within a second


class Pace:
    """`row_s` is the seconds in which one row is served while rows wait; 0 before the first run."""

    def __init__(self) -> None:
        self._rows = self._busy_s = self.row_s = 0.0

    def ran(self, rows: int, busy_s: float, *, waited: bool) -> None:
        """Take in a run of `rows` that kept the service busy for `busy_s`; `waited` when more rows did than it took.

        Where none waited, runs are as small as the load: a row takes longer then than it would in a queue, so such a
        run counts only where it was faster than what is known.
        """
        if not self.row_s:
            self._rows, self._busy_s = rows, busy_s
        elif waited or busy_s < rows * self.row_s:
            self._rows += SMOOTHING * (rows - self._rows)
            self._busy_s += SMOOTHING * (busy_s - self._busy_s)
        self.row_s = self._busy_s / self._rows
