"""Freeing the batch axis of a graph that takes one row a run, so that sessions share runs.

`training.export.batch_axis` rewrites the graph in a process of its own, because it needs `onnx`, which the service does
not have. It knows drafts, not how a graph is rewritten. Invariant: a row's answers from the new graph, alone and with
neighbours, are those of the old graph.
"""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.contract.files import read_manifest
from service.engine.engine import Engine
from service.engine.probe import TOLERANCES, differ
from service.errors import ManifestError, StartupError
from service.inspect.draft import Draft, draft
from service.inspect.hints import Hints
from service.metrics import Metrics, ModelMetrics
from service.model.graph_check import holds_one_row, lacks_batch
from service.model.onnx_session import Optimisation
from service.model.repository import load_model
from service.settings import Settings

OPTION = "--free-batch"
MAX_TRIES = 16  # ways to choose the batch axis, where several axes are of size 1


def free_batch(
    file: Path, found: Draft, settings: Settings, hints: Hints, out: Path, *, optimisation: Optimisation
) -> Draft:
    """Write the graph of `file` to `out` with a free batch axis, and return its draft; for a `Trial` to run.

    `found` is the draft of `file`.

    Raises: StartupError when the axis is free already, when `onnx` or `training` is not installed, or when every way to
    free the axis changes the answers.
    """
    if not all(importlib.util.find_spec(name) for name in ("onnx", "training")):
        raise StartupError(
            f"{OPTION} rewrites graphs with onnx, which is not installed: pip install 'baton-serving[train]'"
        )
    original = _engine(file, found, settings, optimisation)
    reasons: list[str] = []
    for axes in itertools.islice(_choices(file, original), MAX_TRIES):
        try:
            _rewrite(file, out, axes)
            freed = draft(out, found.manifest.name, settings, hints, found.manifest.task, optimisation=optimisation)
        except StartupError as refusal:
            reasons.append(refusal.message if isinstance(refusal, ManifestError) else str(refusal))
            continue
        problem = freed.problem or _difference(out, original, _engine(out, freed, settings, optimisation))
        if problem is None:
            return freed
        reasons.insert(0, problem.message)  # it ran, so that this choice was the better one
    raise StartupError(
        f"{OPTION}: the graph holds sizes of one row that cannot be rewritten safely, so free the axis where it is "
        f"exported, or do without the option: {reasons[0]}"
    )


def _choices(file: Path, engine: Engine) -> Iterator[dict[str, int]]:
    """Yield each choice of a batch axis for the inputs of one row; inputs of the same shape have it in the same place.

    Raises: ManifestError when there is nothing to free.
    """
    nodes, shapes = {node.name: node for node in engine.model.session.inputs}, engine.manifest.by_row
    fixed = [nodes[name] for name, shape in shapes.items() if holds_one_row(nodes[name], shape)]
    if not fixed:
        raise ManifestError(file, OPTION, "the batch axis is free already; leave the option out")
    if without := [node.name for node in fixed if lacks_batch(node, shapes[node.name])]:
        message = f"{', '.join(without)} has no batch axis that could be freed; add one where the graph is exported"
        raise ManifestError(file, OPTION, message)
    ones = {node.shape: [axis for axis, size in enumerate(node.shape) if size == 1] for node in fixed}
    for places in itertools.product(*ones.values()):
        chosen = dict(zip(ones, places, strict=True))
        yield {node.name: chosen[node.shape] for node in fixed}


def _rewrite(file: Path, out: Path, axes: dict[str, int]) -> None:
    named = [f"{name}={axis}" for name, axis in axes.items()]
    command = [sys.executable, "-m", "training.export.batch_axis", str(file), str(out), *named]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        told = ended.stderr.strip() or f"the rewriting ended with status {ended.returncode}"
        raise StartupError(told.splitlines()[-1])


def _difference(file: Path, original: Engine, freed: Engine) -> ManifestError | None:
    gap = differ(original, freed)
    if gap <= TOLERANCES[original.manifest.arithmetic]:
        return None
    return ManifestError(file, OPTION, f"two rows together are answered {gap:.2g} (relative) away from one at a time")


def _engine(file: Path, made: Draft, settings: Settings, optimisation: Optimisation) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        directory = made.write(file, Path(folder))
        read, threads = read_manifest(directory), settings.intra_op_threads
        model = load_model(directory, read, device=settings.device, intra_op_threads=threads, optimisation=optimisation)
        return Engine(model, settings, ModelMetrics(Metrics(), read.name, read.version))
