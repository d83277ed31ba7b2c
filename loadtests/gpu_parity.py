"""The parity suite of published models on another provider: a committed graph gives there what it gives on the CPU.

On the CPU the graphs were held against PyTorch before they were published; here each is held against itself. It knows
engines and rows, not tasks. Invariant: every output and state is compared, of the start graph too, up to each row's own
length.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from loadtests.models import engine_of
from service.contract.files import MANIFEST_FILE
from service.contract.manifest import Manifest
from service.contract.members import Arithmetic
from service.engine.engine import Engine
from service.engine.probe import gap, sample
from service.engine.rows import Answer, Row
from service.errors import BatonError
from training.export.graph import ExportError
from training.export.quantize import to_float16

# Relative, as in `service.engine.probe`. A GPU sums float32 in another order than a CPU; float16 has a step of 1e-3 at
# 1; int8 turns a difference in the last bit into one of a whole level.
BOUNDS: dict[Arithmetic, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}
ROWS, MORE_STEPS, CUT = 8, 32, 0.2  # CUT: the share of a row's steps behind which a chunk ends


def measure(engine: Engine, reference: Engine, seed: int = 0) -> dict[str, float]:
    """Return the largest relative difference of each comparison.

    `cpu` is between both engines on a ragged batch; `ragged` and `chunks`, where the model streams, are of the first
    alone: between the batch and its rows one by one, and the rows in chunks with carried state. An int8 graph scales
    activations over all that a run holds, so only `cpu` is asked of it.

    Raises: BatonError when a run fails.
    """
    gaps: dict[str, float] = {}
    for one, other in zip(engine.parts, reference.parts, strict=True):
        for name, found in _gaps(one, other, np.random.default_rng(seed)):
            gaps[name] = float(np.maximum(gaps.get(name, 0.0), found))  # keeps a NaN
    return gaps


def _gaps(engine: Engine, reference: Engine, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    manifest = engine.manifest
    rows = [_varied(row, reference, rng) for row in sample(reference, _lengths(manifest, rng))]
    together = answers(engine, rows)
    yield "cpu", gap(engine, together, answers(reference, rows))
    if manifest.arithmetic == "int8":
        return
    yield "ragged", gap(engine, together, [answers(engine, [row])[0] for row in rows])
    if manifest.streamable:
        yield "chunks", gap(engine, together, [_chunked(engine, row, rng) for row in rows])


def _lengths(manifest: Manifest, rng: np.random.Generator) -> list[int]:
    fewest, most = manifest.row_steps
    longest = fewest + MORE_STEPS if most is None else min(most, fewest + MORE_STEPS)
    if manifest.lengths is None and manifest.sequence.has_time:
        return [longest] * ROWS
    return [int(length) for length in rng.integers(fewest, longest, ROWS, endpoint=True)]


def _varied(row: Row, engine: Engine, rng: np.random.Generator) -> Row:
    """Return a row with its steps in another order, and with any tokens where a tokenizer says which there are."""
    steps = rng.permutation(row.steps)
    if engine.model.vocabulary is not None:
        ids = steps if steps.ndim == 1 else steps[:, 0]  # characters stand behind
        ids[:] = rng.integers(0, engine.model.vocabulary.last_id, len(ids), endpoint=True)
    return replace(row, steps=steps)


def answers(engine: Engine, rows: list[Row]) -> list[Answer]:
    """Run rows together. Raises: BatonError when one fails."""
    made = engine.run(rows)
    for answer in made:
        if isinstance(answer, Exception):
            raise BatonError(f"{engine.manifest.name} fails: {answer.__cause__ or answer}") from answer
    return [answer for answer in made if isinstance(answer, Answer)]


def _chunked(engine: Engine, row: Row, rng: np.random.Generator) -> Answer:
    """Run a row in chunks, each from the state that the one before it left."""
    parts: list[Answer] = []
    state = row.state
    for chunk in np.split(row.steps, np.flatnonzero(rng.random(len(row.steps) - 1) < CUT) + 1):
        parts += answers(engine, [Row(chunk, state)])
        state = parts[-1].state
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return Answer(outputs, parts[-1].state)


def in_float16(directory: Path, folder: Path, device: str) -> Engine:
    """Return the engine of a float16 copy of a version, made in `folder`.

    Raises: ExportError when a graph cannot become float16, or none has anything that would.
    """
    made = shutil.copytree(directory, folder / directory.parent.name / directory.name)
    manifest = json.loads((made / MANIFEST_FILE).read_text())
    manifest["arithmetic"], casts = "float16", 0
    for part in filter(None, (manifest, manifest.get("start"))):
        float32 = (made / part["file"]).read_bytes()
        graph = to_float16(float32)
        casts += _nodes(graph) - _nodes(float32)
        (made / part["file"]).write_bytes(graph)
        part["sha256"] = hashlib.sha256(graph).hexdigest()
    if not casts:
        raise ExportError("no node takes float32 weights")
    (made / MANIFEST_FILE).write_text(json.dumps(manifest))
    return engine_of(made, device)


def _nodes(graph: bytes) -> int:
    return len(onnx.load_from_string(graph).graph.node)
