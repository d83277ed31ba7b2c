"""A version on its way from a directory to an engine: tried in a process of its own, then made ready in this one.

Both processes make it ready in the same way, so what would end this one has ended the other. It knows directories and
engines, not when they are wanted. Invariant: `Tried` holds the manifest, and so the hashes of the files, that the trial
had; files that differ are not loaded.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.probe import probe
from service.engine.trial import Trial
from service.engine.warmup import Costs, measure_costs, warm
from service.errors import ManifestError
from service.metrics import Metrics, ModelMetrics
from service.model.onnx_session import Optimisation
from service.model.repository import load_model
from service.settings import Settings


@dataclass(frozen=True)
class Tried:
    """A version that passed its trial, how far ONNX Runtime may optimise it, and what its runs cost."""

    directory: Path
    manifest: Manifest
    optimisation: Optimisation
    costs: Costs


def try_versions(
    directories: Sequence[Path], settings: Settings, trial: Trial, done: Collection[Tried] = ()
) -> Generator[Tried]:
    """Try each version in `trial`, unless it is in `done`; trials run ahead while the caller uses a result.

    Raises: ManifestError or DeviceUnavailable, in its turn, for a version that cannot be served.
    """

    def attempt(directory: Path) -> Tried:
        manifest = read_manifest(directory)
        for tried in done:
            if (tried.directory, tried.manifest) == (directory, manifest):
                return tried
        label, file = f"{manifest.name} {manifest.version}", directory / manifest.file
        costs, optimisation = trial.run(label, file, _try_version, directory, manifest, settings)
        return Tried(directory, manifest, optimisation, costs)

    with trial, ThreadPoolExecutor(1, "trial") as ahead:
        try:
            yield from ahead.map(attempt, directories)
        finally:
            trial.stop()


def load_engine(
    directory: Path, manifest: Manifest, settings: Settings, metrics: Metrics, *, optimisation: Optimisation
) -> Engine:
    """Return an engine that has passed every check and made its largest runs.

    Raises: ManifestError for a broken contract; DeviceUnavailable when the device cannot be had.
    """
    threads = settings.worker_share(settings.intra_op_threads)
    model = load_model(directory, manifest, device=settings.device, intra_op_threads=threads, optimisation=optimisation)
    max_bytes = max(settings.max_state_bytes, settings.largest_held_state)
    if manifest.streamable and manifest.state_bytes > max_bytes:
        message = f"a session has {manifest.state_bytes} bytes; a token or the store carries at most {max_bytes}"
        raise ManifestError(model.file, "states", f"{message}: see BATON_MAX_STATE_BYTES and BATON_STORE")
    engine = Engine(model, settings, ModelMetrics(metrics, manifest.name, manifest.version))
    probe(engine)
    warm(engine, settings)
    return engine


def _try_version(directory: Path, manifest: Manifest, settings: Settings, *, optimisation: Optimisation) -> Costs:
    """Load a version, measure what its runs cost, and drop it."""
    costs = measure_costs(load_engine(directory, manifest, settings, Metrics(), optimisation=optimisation), settings)
    gc.collect()  # an engine and its batcher hold each other, and the next version's memory is counted by itself
    return costs
