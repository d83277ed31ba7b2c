"""Publishing in int8 or float16: a published float32 model becomes `models/<name>-int8/` or `<name>-float16/`.

It knows the contract and directories, not tasks or nodes. Invariant: the model is published with its own figures,
measured through the service, beside those of the float32 model, and only if no figure moved too far.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from service.contract.files import read_manifest, verify_files
from service.contract.manifest import Manifest
from service.contract.provenance import Metric, Provenance
from training.evaluate import serving
from training.export import quantization_error
from training.export.parity import BOUND
from training.export.quantization_error import Difference
from training.export.quantize import QUANTIZERS, Quantized
from training.publish.model_directory import CARD_FILE, PublishError, move, next_version, write_files, write_manifest
from training.recipe import Release
from training.report.card import write_quantized_card

SUFFIXES: dict[Quantized, str] = {"int8": "-int8", "float16": "-float16"}
FLOAT32 = "the float32 model"
ON_AVX2 = "_on_avx2"  # ends the names of figures that were measured on a processor without AVX-512 and VNNI
# Half a percent of the figure: less than half a point of an accuracy. It holds for every figure and in both directions:
# nothing declares which way a figure should go, and a model with nearly the same answers has nearly the same figures.
MAX_MOVED = 0.005
# Absolute, as parity is. A float16 has a step of 1e-3 at 1; what was measured is 1.7e-4 (sentiment's scores, all of
# SST-2's dev and test parts) and 1e-4 (outputs and states of a two-layer LSTM of 384 after 400 steps) with the weights
# rounded, and 2e-4 more when each step is rounded too, as on a GPU.
FLOAT16_BOUND = 2e-3


def publish_quantized(
    release: Release,
    float32: Path,
    arithmetic: Quantized,
    models_dir: Path,
    *,
    command: str,
    old_cpu: Path | None = None,
) -> Path:
    """Quantize the published `float32` directory's graph, measure it, and publish it; return its directory.

    `release` is what that directory was published from. `old_cpu` is an interpreter of `training.old_cpu`, by which the
    figures are measured as well; without it they are of this processor alone.

    Raises: ExportError when the network cannot be quantized; PublishError when the float32 model is none,
    or when an answer or a figure is too far from it; EvaluationError. Nothing is then published.
    """
    original = read_manifest(float32)
    if original.start is not None:
        raise PublishError(f"{original.name} begins with a start graph, and such models are published in float32 alone")
    verify_files(float32, original)
    provenance = _float32_provenance(original)
    graph = (float32 / original.file).read_bytes()
    quantized = QUANTIZERS[arithmetic](graph)
    difference = quantization_error.measure(release.servable, graph, quantized)
    if arithmetic == "float16":
        _require_near(difference, original.name)
    name = original.name + SUFFIXES[arithmetic]
    version = next_version(models_dir / name)
    changes = {"sha256": hashlib.sha256(quantized).hexdigest(), "arithmetic": arithmetic}
    manifest = original.model_copy(
        update={**changes, "name": name, "version": version, "description": _described(original, arithmetic)}
    )
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=models_dir) as staging:
        staged = Path(staging, name, version)
        # Under the name that `release.measure` asks for, too: its figures are those of the very same graph.
        asked = Path(staging, original.name, original.version)
        for directory, declared in ((staged, manifest), (asked, original.model_copy(update=changes))):
            shutil.copytree(float32, directory, ignore=shutil.ignore_patterns(CARD_FILE))
            write_files(directory, {original.file: quantized})
            write_manifest(directory, declared)
        figures = _served_figures(release, Path(staging), provenance.metrics, old_cpu, of=name)
        figures += _own_figures(difference, arithmetic, bytes_now=len(quantized), bytes_before=len(graph))
        today = datetime.now(UTC).date()
        told = provenance.model_copy(update={"metrics": figures, "command": command, "created": today, "seeds": None})
        manifest = manifest.model_copy(update={"provenance": told})
        write_manifest(staged, manifest)
        write_files(staged, {CARD_FILE: write_quantized_card(release, manifest, original).encode()})
        return move(staged, models_dir / name / version)


def _require_near(difference: Difference, name: str) -> None:
    if not difference.max_abs_difference <= FLOAT16_BOUND:
        raise PublishError(
            f"{name} in float16 differs by {difference.max_abs_difference:.3g} from float32; at most "
            f"{FLOAT16_BOUND:g} is allowed, so it may not be published: something in it needs float32"
        )


def compared(measured: tuple[Metric, ...], original: tuple[Metric, ...], *, of: str) -> tuple[Metric, ...]:
    """Return the figures with the float32 model's as their floors.

    Raises: PublishError when a figure has moved too far, or when the two do not have the same figures.
    """
    before = {metric.name: metric.value for metric in original}
    if before.keys() != {metric.name for metric in measured}:
        raise PublishError(
            f"{of}: the float32 model was published with other figures than are measured now "
            f"({', '.join(sorted(before.keys() ^ {metric.name for metric in measured}))}); publish it again first"
        )
    far = [
        f"{metric.name} is {metric.value:.5g}, the float32 model's is {before[metric.name]:.5g}"
        for metric in measured
        if not abs(metric.value - before[metric.name]) <= MAX_MOVED * abs(before[metric.name])
    ]
    if far:
        raise PublishError(
            f"{of}: {'; '.join(far)}; a figure may move by {MAX_MOVED:.1%} of itself, so it may not be published"
        )
    return tuple(
        Metric(name=metric.name, value=metric.value, floor=before[metric.name], floor_method=FLOAT32)
        for metric in measured
    )


def _served_figures(
    release: Release, models_dir: Path, original: tuple[Metric, ...], old_cpu: Path | None, *, of: str
) -> tuple[Metric, ...]:
    """Measure through the service what the float32 model has in `original`; with `old_cpu` there as well."""
    with serving(models_dir) as url:
        figures = compared(release.measure(url), original, of=of)
    if old_cpu is None:
        return figures
    with serving(models_dir, old_cpu) as url:
        there = compared(release.measure(url), original, of=f"{of} on AVX2 alone")
    return figures + tuple(figure.model_copy(update={"name": figure.name + ON_AVX2}) for figure in there)


def _float32_provenance(original: Manifest) -> Provenance:
    provenance = original.provenance
    if original.arithmetic != "float32" or provenance is None or not provenance.parity_max_abs <= BOUND:
        raise PublishError(
            f"{original.name} {original.version} is not a float32 model that was published with parity within "
            f"{BOUND:g}; a model in int8 or float16 is made from a float32 model alone"
        )
    return provenance


def _described(original: Manifest, arithmetic: Quantized) -> str:
    return f"{original.description} As {original.name} {original.version}, in {arithmetic}."


def _own_figures(
    difference: Difference, arithmetic: Quantized, *, bytes_now: int, bytes_before: int
) -> tuple[Metric, ...]:
    figures = [
        Metric(name="max_abs_difference_from_float32", value=difference.max_abs_difference),
        Metric(name="max_abs_movement_in_batches", value=difference.max_abs_movement),
        Metric(name="model_bytes", value=bytes_now, floor=bytes_before, floor_method=FLOAT32),
    ]
    if arithmetic == "int8":  # float16 is for GPUs; a CPU computes it in float32 with casts around
        timed = {"speedup": difference.speedups, "speedup_step": difference.step_speedups or {}}
        figures += [
            Metric(name=f"{name}_batch_{batch}", value=ratio, floor=1.0, floor_method=FLOAT32)
            for name, ratios in timed.items()
            for batch, ratio in ratios.items()
        ]
    return tuple(figures)
