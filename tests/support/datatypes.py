"""The datatypes of the Open Inference Protocol by the names that manifests have, and values that try each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_plain

DATATYPES = {
    "bool": "BOOL",
    "string": "BYTES",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}


def all_echoes(root: Path) -> Path:
    """Write the model echo-<dtype> for each and return `root`."""
    for dtype in DATATYPES:
        tiny_plain.echo(root, dtype)
    return root


def values(dtype: str) -> np.ndarray[Any, Any]:
    """Return two rows of two values, the extremes of `dtype` among them."""
    if dtype == "string":
        return np.array([["", "zwölf\n"], ["日本", '"']], object)
    if dtype == "bool":
        return np.array([[True, False], [False, False]])
    if dtype.startswith("float"):
        return np.array([[np.finfo(dtype).min, np.finfo(dtype).max], [0.1, -0.0]], dtype)
    return np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max], [1, 2]], dtype)
