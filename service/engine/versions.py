"""A version on its way from a directory to an engine: tried in a process of its own, then loaded in this one.

Both processes load it in the same way, so what would end this one has ended the other; what the trial found out, this
one need not. It knows directories and engines, not when they are wanted. Invariant: `Tried` holds the manifest, and so
the hashes of the files, that the trial had; files that differ are not loaded.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.engine.costs import Costs, measure_costs, read_longest, run_largest
from service.engine.engine import Engine
from service.engine.probe import probe
from service.engine.trial import Trial
from service.errors import ManifestError
from service.metrics import Metrics, ModelMetrics
from service.model.onnx_session import CUDA, OPTIMISATIONS, Optimisation, choose_providers
from service.model.repository import LazyModel, Model, Source
from service.settings import Settings


@dataclass(frozen=True)
class Found:
    """What a trial found out about a version: what its runs cost, where they go, whether they take a row at a time.

    `start_costs` are those of its start graph, where it has one.
    """

    costs: Costs
    device: str
    one_row: bool
    start_costs: Costs | None = None


@dataclass(frozen=True)
class Tried:
    """A version that passed its trial, how far ONNX Runtime may optimise it, and what else was found.

    `found` is None for a version that had no trial: it is probed when it is loaded.
    """

    directory: Path
    manifest: Manifest
    optimisation: Optimisation
    found: Found | None


def try_versions(
    directories: Iterable[Path], settings: Settings, trial: Trial, done: Collection[Tried] = ()
) -> Generator[Tried]:
    """Try each version in `trial`, unless it is in `done`.

    Raises: ManifestError or DeviceUnavailable, in its turn, for a version that cannot be served.
    """
    with trial:
        for directory in directories:
            manifest = read_manifest(directory)
            known = [tried for tried in done if (tried.directory, tried.manifest) == (directory, manifest)]
            yield known[0] if known else _attempt(directory, manifest, settings, trial)


def try_at_once(directories: Sequence[Path], settings: Settings, trials: Sequence[Trial]) -> list[Tried]:
    """Try the versions, each in the next trial that is free.

    Raises: what `try_versions` raises, for the first version that cannot be served.
    """
    free: SimpleQueue[Trial] = SimpleQueue()

    def attempt(directory: Path) -> Tried:
        trial = free.get()
        try:
            return _attempt(directory, read_manifest(directory), settings, trial)
        finally:
            free.put(trial)

    with ExitStack() as stack, ThreadPoolExecutor(len(trials), "trial") as pool:
        for trial in trials:
            free.put(stack.enter_context(trial))
        return list(pool.map(attempt, directories))


def spare_trial(directory: Path) -> Tried:
    """Take a version without a trial, for a process that nobody else depends on: what ends it harms no other's work.

    Raises: ManifestError when its manifest will not do.
    """
    return Tried(directory, read_manifest(directory), OPTIMISATIONS[0], None)


def _attempt(directory: Path, manifest: Manifest, settings: Settings, trial: Trial) -> Tried:
    label, file = f"{manifest.name} {manifest.version}", directory / manifest.file
    found, optimisation = trial.run(label, file, _try_version, directory, manifest, settings)
    return Tried(directory, manifest, optimisation, found)


def _try_version(directory: Path, manifest: Manifest, settings: Settings, *, optimisation: Optimisation) -> Found:
    """Load a version, check how it behaves, make its largest run, measure what its runs cost, and drop it."""
    model = Source(directory, manifest).load(**_options(settings), optimisation=optimisation)
    engine = _engine(model, settings, Metrics())
    starter = engine.starter
    _probe(engine)
    for part in engine.parts:
        read_longest(part, settings)
        run_largest(part, settings)
    start_costs = None if starter is None else measure_costs(starter, settings)
    found = Found(measure_costs(engine, settings), model.device, model.one_row, start_costs)
    del engine, model, starter, part
    gc.collect()  # an engine and its batcher hold each other, and the next version's memory is counted by itself
    return found


def load_tried(tried: Tried, settings: Settings, metrics: Metrics) -> Engine:
    """Return the engine of a version; its model is loaded when first used, if settings say so.

    Raises: ManifestError when its files are not those that were tried; DeviceUnavailable when the device is gone.
    """
    source, found = Source(tried.directory, tried.manifest), tried.found
    load: Callable[[], Model] = partial(source.load, **_options(settings), optimisation=tried.optimisation)
    if found is None:
        load, found = partial(_load_probed, load, settings), _expected(settings)
    model: Model | LazyModel
    if settings.load == "lazy":
        model = LazyModel(source.manifest, source.file, load, source.close, found.device, found.one_row)
    else:
        model = load()
    engine = _engine(model, settings, metrics)
    engine.batcher.calibrate(**asdict(found.costs))
    if engine.starter is not None and found.start_costs is not None:
        engine.starter.batcher.calibrate(**asdict(found.start_costs))
    return engine


def _load_probed(load: Callable[[], Model], settings: Settings) -> Model:
    """Raises: ManifestError when the model does not behave as its manifest says."""
    model = load()
    _probe(_engine(model, settings, Metrics()))
    return model


def _probe(engine: Engine) -> None:
    """Raises: ManifestError when a graph of the model does not behave as its manifest says."""
    if engine.starter is not None:
        with ManifestError.within("start."):
            probe(engine.starter)
    probe(engine)


def _expected(settings: Settings) -> Found:
    """Return what a trial would most likely find; where it is wrong, runs are slower and answers the same."""
    return Found(Costs(1, 0), "cuda" if CUDA in choose_providers(settings.device) else "cpu", one_row=False)


def _options(settings: Settings) -> dict[str, Any]:
    return {"device": settings.device, "intra_op_threads": settings.worker_share(settings.intra_op_threads)}


def _engine(model: Model | LazyModel, settings: Settings, metrics: Metrics) -> Engine:
    """Raises: ManifestError when a session's state is larger than can be kept."""
    manifest = model.manifest
    max_bytes = max(settings.max_state_bytes, settings.largest_held_state)
    size = manifest.state_bytes + manifest.memory_bytes
    if manifest.streamable and size > max_bytes:
        message = f"a session has {size} bytes; a token or the store carries at most {max_bytes}"
        raise ManifestError(model.file, "states", f"{message}: see BATON_MAX_STATE_BYTES and BATON_STORE")
    return Engine(model, settings, ModelMetrics(metrics, manifest.name, manifest.version))
