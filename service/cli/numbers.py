"""Numbers as people write them.

It knows one cell, not where it stands. Invariant: what only Python takes for a number is none.
"""

from __future__ import annotations

from typing import Any


def read_number(cell: Any) -> float:
    """Return the number in a cell, which may be infinite or NaN.

    Raises: ValueError or TypeError for what is none, such as true and 1_000, which `float` takes.
    """
    if isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
        raise ValueError(f"{cell!r} is no number")
    return float(cell)
