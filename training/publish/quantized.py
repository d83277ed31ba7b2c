"""Publishing in narrower arithmetic: a published float32 model becomes `models/<name>-int8/` or `<name>-fp16/`.

It knows the contract and directories, not tasks or nodes. Invariant: such a model is published with its own figures,
measured through the service, beside those of the float32 model, and only if none of them is far from it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from service.contract import Manifest, Metric, Provenance, read_manifest, verify_files
from training.evaluate import serving
from training.export import quantization_error as drift
from training.export.parity import BOUND
from training.export.quantization_error import Drift
from training.export.quantize import NARROWING, Narrow
from training.publish.model_directory import CARD_FILE, PublishError, move, next_version, write_files, write_manifest
from training.recipe import Release
from training.report.card import write_narrow_card

SUFFIXES: dict[Narrow, str] = {"int8": "-int8", "float16": "-fp16"}
FLOAT32 = "the float32 model"
ON_AVX2 = "_on_avx2"  # ends the names of figures that were measured on a processor without AVX-512 and VNNI
# Half a percent of the figure: of an accuracy less than half a point. It holds in both directions and for every figure,
# because which way a figure should go is nowhere declared, and a model whose answers are nearly the same has nearly the
# same figures.
MOST_MOVED = 0.005
# Absolute, as parity is. A float16 has a step of 1e-3 at 1; what was measured is 1.7e-4 (sentiment's scores, all of
# SST-2's dev and test parts) and 1e-4 (outputs and states of a two-layer LSTM of 384 after 400 steps) with the weights
# rounded, and 2e-4 more when each step is rounded too, as on a GPU.
FLOAT16_BOUND = 2e-3


def publish_narrow(
    release: Release,
    float32: Path,
    arithmetic: Narrow,
    models_dir: Path,
    *,
    command: str,
    old_cpu: Path | None = None,
) -> Path:
    """Make the published `float32` directory's graph narrower, measure it, and publish it; return its directory.

    `release` is what that directory was published from. `old_cpu` is an interpreter of `training.old_cpu`, by which the
    figures are measured as well; without it they are of this processor alone.

    Raises: ExportError when the network cannot be had in that arithmetic; PublishError when the float32 model is none,
    or when an answer or a figure is too far from it; EvaluationError. Nothing is then published.
    """
    wide = read_manifest(float32)
    verify_files(float32, wide)
    provenance = _float32_provenance(wide)
    graph = (float32 / wide.file).read_bytes()
    narrow = NARROWING[arithmetic](graph)
    moved = drift.measure(release.servable, graph, narrow)
    if arithmetic == "float16" and not moved.max_abs_difference <= FLOAT16_BOUND:
        raise PublishError(
            f"{wide.name} in float16 differs by {moved.max_abs_difference:.3g} from float32; at most "
            f"{FLOAT16_BOUND:g} is allowed, so it may not be published: something in it needs float32"
        )
    name = wide.name + SUFFIXES[arithmetic]
    version = next_version(models_dir / name)
    changes = {"sha256": hashlib.sha256(narrow).hexdigest(), "arithmetic": arithmetic}
    manifest = wide.model_copy(
        update={**changes, "name": name, "version": version, "description": _described(wide, arithmetic)}
    )
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=models_dir) as staging:
        staged = Path(staging, name, version)
        # Under the name that `release.measure` asks for, too: its figures are those of the very same graph.
        asked = Path(staging, wide.name, wide.version)
        for directory, declared in ((staged, manifest), (asked, wide.model_copy(update=changes))):
            shutil.copytree(float32, directory, ignore=shutil.ignore_patterns(CARD_FILE))
            write_files(directory, {wide.file: narrow})
            write_manifest(directory, declared)
        figures = _served_figures(release, Path(staging), provenance.metrics, old_cpu, of=name)
        figures += _own_figures(moved, arithmetic, bytes_now=len(narrow), bytes_before=len(graph))
        today = datetime.now(UTC).date()
        told = provenance.model_copy(update={"metrics": figures, "command": command, "created": today, "seeds": None})
        manifest = manifest.model_copy(update={"provenance": told})
        write_manifest(staged, manifest)
        write_files(staged, {CARD_FILE: write_narrow_card(release, manifest, wide).encode()})
        return move(staged, models_dir / name / version)


def compared(measured: tuple[Metric, ...], wide: tuple[Metric, ...], *, of: str) -> tuple[Metric, ...]:
    """Return the figures with the float32 model's as their floors.

    Raises: PublishError when a figure has moved too far, or when the two have not the same figures.
    """
    before = {metric.name: metric.value for metric in wide}
    if before.keys() != {metric.name for metric in measured}:
        raise PublishError(
            f"{of}: the float32 model was published with other figures than are measured now "
            f"({', '.join(sorted(before.keys() ^ {metric.name for metric in measured}))}); publish it again first"
        )
    far = [
        f"{metric.name} is {metric.value:.5g}, the float32 model's is {before[metric.name]:.5g}"
        for metric in measured
        if not abs(metric.value - before[metric.name]) <= MOST_MOVED * abs(before[metric.name])
    ]
    if far:
        raise PublishError(
            f"{of}: {'; '.join(far)}; a figure may move by {MOST_MOVED:.1%} of itself, so it may not be published"
        )
    return tuple(
        Metric(name=metric.name, value=metric.value, floor=before[metric.name], floor_method=FLOAT32)
        for metric in measured
    )


def _served_figures(
    release: Release, models_dir: Path, wide: tuple[Metric, ...], old_cpu: Path | None, *, of: str
) -> tuple[Metric, ...]:
    """Measure through the service what the float32 model has in `wide`; with `old_cpu` there as well."""
    with serving(models_dir) as url:
        figures = compared(release.measure(url), wide, of=of)
    if old_cpu is None:
        return figures
    with serving(models_dir, old_cpu) as url:
        there = compared(release.measure(url), wide, of=f"{of} on AVX2 alone")
    return figures + tuple(figure.model_copy(update={"name": figure.name + ON_AVX2}) for figure in there)


def _float32_provenance(wide: Manifest) -> Provenance:
    provenance = wide.provenance
    if wide.arithmetic != "float32" or provenance is None or not provenance.parity_max_abs <= BOUND:
        raise PublishError(
            f"{wide.name} {wide.version} is not a float32 model that was published with parity within {BOUND:g}; "
            "narrower arithmetic is made from such a one alone"
        )
    return provenance


def _described(wide: Manifest, arithmetic: Narrow) -> str:
    return f"{wide.description} As {wide.name} {wide.version}, in {arithmetic}."


def _own_figures(moved: Drift, arithmetic: Narrow, *, bytes_now: int, bytes_before: int) -> tuple[Metric, ...]:
    figures = [
        Metric(name="max_abs_difference_from_float32", value=moved.max_abs_difference),
        Metric(name="max_abs_movement_in_batches", value=moved.max_abs_movement),
        Metric(name="model_bytes", value=bytes_now, floor=bytes_before, floor_method=FLOAT32),
    ]
    if arithmetic == "int8":  # float16 is for GPUs; a CPU computes it in float32 with casts around
        timed = {"speedup": moved.speedups, "speedup_step": moved.step_speedups or {}}
        figures += [
            Metric(name=f"{name}_batch_{batch}", value=ratio, floor=1.0, floor_method=FLOAT32)
            for name, ratios in timed.items()
            for batch, ratio in ratios.items()
        ]
    return tuple(figures)
