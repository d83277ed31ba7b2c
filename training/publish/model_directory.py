"""Publishing: a release becomes `models/<name>/<version>/`, complete, measured through the service, and immutable.

It knows the contract and directories, not tasks. Invariant: a version directory appears whole, by one rename, after
parity held and the service served it; one that exists is never touched again.
"""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.contract.files import MANIFEST_FILE, explain, read_manifest, verify_files
from service.contract.manifest import Manifest
from service.contract.parts import Start, Text
from service.contract.provenance import Metric, Provenance
from service.errors import StartupError
from training.evaluate import serving
from training.export import parity
from training.export.graph import export
from training.networks.nodes import OPSET
from training.recipe import Release, TextReader
from training.report.card import write_card

MODEL_FILE, TOKENIZER_FILE, CARD_FILE, CURVE_FILE = "model.onnx", "tokenizer.json", "card.md", "training.csv"
START_FILE, SOURCE_TOKENIZER_FILE = "start.onnx", "source-tokenizer.json"
MAX_MODEL_BYTES = 12_000_000  # of a model that is trained here, and may be committed
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "lightning", "tokenizers")


class PublishError(StartupError):
    """The release may not be published; the message says why and what to do."""


@dataclass(frozen=True)
class _Staged:
    directory: Path
    manifest: Manifest
    parity: parity.Parity
    metrics: tuple[Metric, ...]


def publish(
    release: Release,
    models_dir: Path,
    *,
    command: str,
    seed: int | None = None,
    others: Mapping[int, Release] | None = None,
    curve: str | None = None,
    max_bytes: int | None = MAX_MODEL_BYTES,
) -> Path:
    """Export, check, stage, serve, measure, and publish as the next version; return its directory.

    `others` are the models of the recipe's other seeds: checked and measured in the same way, they give each figure's
    spread. `curve` is the run's learning curve as CSV. Graphs of `max_bytes` or more are refused.

    Raises: ExportError, ParityError, ManifestError, EvaluationError or PublishError; nothing is then published.
    """
    models_dir.mkdir(parents=True, exist_ok=True)
    version = next_version(models_dir / release.name)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=models_dir) as folder:
        releases: dict[int | None, Release] = {seed: release}
        releases.update((others or {}).items())
        staged = {
            number: _stage(each, Path(folder, str(number)), version, command=command, seed=number, max_bytes=max_bytes)
            for number, each in releases.items()
        }
        chosen = staged[seed]
        assert chosen.manifest.provenance is not None
        measured = _with_spread(chosen.metrics, {number: each.metrics for number, each in staged.items()})
        provenance = chosen.manifest.provenance.model_copy(update=measured)
        manifest = chosen.manifest.model_copy(update={"provenance": provenance})
        write_manifest(chosen.directory, manifest)
        write_files(chosen.directory, {CARD_FILE: write_card(release, manifest, chosen.parity).encode()})
        if curve is not None:
            write_files(chosen.directory, {CURVE_FILE: curve.encode()})
        return move(chosen.directory, models_dir / release.name / version)


def _stage(
    release: Release, folder: Path, version: str, *, command: str, seed: int | None, max_bytes: int | None
) -> _Staged:
    """Export and check a release, write it below `folder` as a models directory, and measure it through the service."""
    graph, starting = export(release.servable), release.servable.start
    start = None if starting is None else export(starting.graph)
    if max_bytes is not None and (size := len(graph) + len(start or b"")) >= max_bytes:
        raise PublishError(f"{release.name}: {size:,} bytes; a model must stay under {max_bytes:,}")
    gaps = parity.measure(release.servable, graph, start)
    gaps.require()
    directory = folder / release.name / version
    files = _files(release, graph, start)
    write_files(directory, files)
    provenance = _provenance(release, command=command, seed=seed, parity_max_abs=gaps.max_abs)
    manifest = _manifest(release, version, files, provenance)
    write_manifest(directory, manifest)
    with serving(folder) as url:
        return _Staged(directory, manifest, gaps, release.measure(url))


def _with_spread(metrics: tuple[Metric, ...], by_seed: Mapping[int | None, tuple[Metric, ...]]) -> dict[str, Any]:
    """Return the provenance's `seeds` and `metrics`: as measured, and with each figure of every seed if several."""
    if len(by_seed) == 1:
        return {"metrics": metrics}
    seeds = tuple(sorted(seed for seed in by_seed if seed is not None))
    values = zip(*([metric.value for metric in by_seed[seed]] for seed in seeds), strict=True)
    spread = (metric.model_copy(update={"seeds": each}) for metric, each in zip(metrics, values, strict=True))
    return {"seeds": seeds, "metrics": tuple(spread)}


def next_version(model_dir: Path) -> str:
    """Return the version after the highest in `model_dir`, "1" where there is none."""
    versions = [int(entry.name) for entry in model_dir.glob("[1-9]*") if entry.name.isdecimal()]
    return str(max(versions, default=0) + 1)


def _files(release: Release, graph: bytes, start: bytes | None) -> dict[str, bytes]:
    files = {MODEL_FILE: graph}
    if start is not None:
        files[START_FILE] = start
    for name, reader in ((TOKENIZER_FILE, release.text), (SOURCE_TOKENIZER_FILE, release.condition_text)):
        if reader is not None:
            files[name] = reader.tokenizer_json.encode()
    return files


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` by name, making the directory where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest, and check it and its files as the service does. Raises: ManifestError."""
    begun = {} if manifest.start is None else manifest.start.states
    own = {place: {"start"} for place, state in enumerate(manifest.states) if state.input in begun}  # begin otherwise
    text = manifest.model_dump_json(indent=2, exclude_none=True, exclude={"states": own}) + "\n"
    write_files(directory, {MANIFEST_FILE: text.encode()})
    verify_files(directory, read_manifest(directory))


def _manifest(release: Release, version: str, files: Mapping[str, bytes], provenance: Provenance) -> Manifest:
    servable = release.servable
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    try:
        return Manifest(
            schema_version=1,
            name=release.name,
            version=version,
            task=release.task,
            description=release.description,
            file=MODEL_FILE,
            sha256=hashes[MODEL_FILE],
            inputs=(servable.sequence,),
            outputs=servable.outputs,
            lengths=servable.lengths,
            memory_lengths=servable.memory_lengths,
            constants=dict(servable.constants),
            states=servable.states,
            streamable=servable.streamable,
            text=_text(release.text, TOKENIZER_FILE, hashes),
            forecast=release.forecast,
            signal=release.signal,
            feedback=release.feedback,
            start=_start(release, hashes),
            networks=release.networks,
            provenance=provenance,
        )
    except ValidationError as failure:
        broken = explain(Path(MANIFEST_FILE), failure)
        message = f"{release.name}: its manifest would break the contract: {broken.field}: {broken.message}"
        raise PublishError(message) from failure


def _start(release: Release, hashes: Mapping[str, str]) -> Start | None:
    starting = release.servable.start
    if starting is None:
        return None
    return Start(
        file=START_FILE,
        sha256=hashes[START_FILE],
        inputs=(starting.graph.sequence,),
        outputs=starting.graph.outputs,
        lengths=starting.graph.lengths,
        constants=dict(starting.graph.constants),
        text=_text(release.condition_text, SOURCE_TOKENIZER_FILE, hashes),
        states=dict(starting.states),
        networks=starting.networks,
    )


def _text(reader: TextReader | None, file: str, hashes: Mapping[str, str]) -> Text | None:
    if reader is None:
        return None
    return Text(
        tokenizer=file,
        sha256=hashes[file],
        max_length=reader.max_length,
        unknown_token=reader.unknown_token,
        characters=reader.characters,
        polarity=reader.polarity,
    )


def _provenance(release: Release, *, command: str, seed: int | None, parity_max_abs: float) -> Provenance:
    return Provenance(
        command=command,
        seed=seed,
        data=release.data,
        metrics=(),
        parity_max_abs=parity_max_abs,
        opset=OPSET,
        licence=release.licence,
        created=datetime.now(UTC).date(),
        tools={"python": platform.python_version(), **{tool: version_of(tool) for tool in TOOLS}},
    )


def move(staged: Path, target: Path) -> Path:
    """Make the staged directory a version, and return it. Raises: PublishError when that version exists."""
    target.parent.mkdir(exist_ok=True)
    try:
        return staged.rename(target)
    except OSError as failure:
        raise PublishError(
            f"{target} was published meanwhile, and versions are immutable; publish again to get the next version"
        ) from failure
