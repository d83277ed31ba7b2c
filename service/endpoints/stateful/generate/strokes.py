"""A picture of handwriting: the strokes of a pen as SVG.

It knows points of a pen, not how they are drawn. Invariant: the coordinates are the sums of the offsets, the picture
has all of them, and nothing but numbers goes into it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.engine.points import PenPoint
from service.model.onnx_session import Array

MARGIN = 0.05  # of the longer side
PEN = 2  # pixels, whatever the size of the picture


def draw_strokes(points: Sequence[PenPoint]) -> str:
    """Return an SVG with a path for each stroke. The points go up, an SVG's down: so y changes its sign."""
    offsets = np.array(points, np.float64).reshape(-1, 3)
    places = offsets[:, :2].cumsum(axis=0) * (1, -1)
    least, most = (places.min(axis=0), places.max(axis=0)) if len(places) else (np.zeros(2), np.zeros(2))
    margin = MARGIN * (most - least).max() or 1.0
    box = " ".join(map(_number, (*(least - margin), *(most - least + 2 * margin))))
    ends = np.flatnonzero(offsets[:-1, 2]) + 1
    paths = [_path(stroke) for stroke in np.split(places, ends) if len(stroke)]
    style = f'fill="none" stroke="currentColor" stroke-width="{PEN}" stroke-linecap="round" stroke-linejoin="round"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {style}>{"".join(paths)}</svg>'


def _path(stroke: Array) -> str:
    """Return a stroke as a path; one of a single point is a dot, by its round ends."""
    first, *others = [f"{_number(x)} {_number(y)}" for x, y in stroke]
    return f'<path vector-effect="non-scaling-stroke" d="M{first}L{" ".join(others or [first])}"/>'


def _number(value: float) -> str:
    return f"{value + 0:.6g}"
