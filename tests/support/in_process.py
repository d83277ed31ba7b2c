"""What ONNX Runtime gives in process for graphs that are served: what every answer is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tiny

Array = np.ndarray[Any, Any]


def run(directory: Path, **feeds: Array) -> dict[str, Array]:
    """Return the outputs of the graph in `directory` by name; states that are not fed begin at zero."""
    manifest = json.loads((directory / "manifest.json").read_text())
    rows = len(feeds[manifest["inputs"][0]["name"]])
    for state in manifest.get("states", []):
        if state["input"] not in feeds:
            shape = [rows if size == "batch" else size for size in state["shape"]]
            feeds[state["input"]] = np.zeros(shape, state["dtype"])
    return run_file(directory / manifest["file"], **feeds)


def run_file(file: Path, **feeds: Array) -> dict[str, Array]:
    """Return the outputs of a graph by name."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def ids_of(texts: list[str]) -> tuple[Array, Array]:
    """Return the ids that the tiny models read, padded with zeros, and how many each text has."""
    rows = [encoding.ids for encoding in tiny.words().encode_batch(texts)]
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row
    return ids, lengths


def scores_of(models: Path, texts: list[str]) -> Array:
    """Return the scores [texts, labels] that the tiny `sentiment` gives."""
    ids, lengths = ids_of(texts)
    return run(models / "sentiment" / "1", ids=ids, lengths=lengths)["scores"]


def steps_of(models: Path, steps: Array) -> Array:
    """Return what the tiny `stepper` gives after each step of sessions [sessions, steps, features], uninterrupted."""
    lengths = np.full(len(steps), steps.shape[1], np.int32)
    return run(models / "stepper" / "1", x=steps, lengths=lengths)["y"]
