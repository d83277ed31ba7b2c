"""The draft of a manifest for a graph that nobody here made, tried before it is shown.

`service.reading` says what the graph can be; loading it and `service.probe` tell which of that it is. It knows nothing
of what the numbers mean, and every draft says so. Invariant: a `Draft` without a problem is served as it stands.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.contract import MANIFEST_FILE, Manifest, field_path, read_manifest, sha256_of
from service.engine import Engine
from service.errors import ManifestError, StartupError
from service.metrics import Metrics, ModelMetrics
from service.probe import probe
from service.reading import STAND_IN, Reading, Shape, find_readings, free_axes, likeness, listed, told
from service.repository import load_model
from service.runtime import Node, Optimisation, Session
from service.settings import Settings
from service.tensors import LARGEST_FLOAT

SPLIT = re.compile(r"\n *")
ALIKE = 0.5  # names less alike than this tell nothing


@dataclass(frozen=True)
class Draft:
    """A manifest, what it could not know, and why it cannot be served, if so."""

    manifest: Manifest
    doubts: list[str]
    problem: ManifestError | None

    def json(self) -> str:
        """Return the manifest as people write it: a shape on one line."""
        text = self.manifest.model_dump_json(indent=2, exclude_defaults=True)
        return re.sub(r"\[\n *([^\[\]{}]*?)\n *\]", lambda row: f"[{re.sub(SPLIT, ' ', row[1])}]", text) + "\n"

    def write(self, file: Path, models_dir: Path) -> Path:
        """Write the draft beside a copy of `file` as `models_dir/<name>/1`, and return that directory.

        Raises: StartupError when it is there already, or cannot be written; then nothing is.
        """
        directory = models_dir / self.manifest.name / self.manifest.version
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".") as folder:
                made = Path(folder) / directory.name
                made.mkdir()
                shutil.copyfile(file, made / self.manifest.file)
                (made / MANIFEST_FILE).write_text(self.json())
                made.rename(directory)
        except OSError as failure:
            raise StartupError(f"{directory} cannot be written: {failure.strerror}") from failure
        return directory


def draft(file: Path, name: str, settings: Settings, *, optimisation: Optimisation) -> Draft:
    """Return the manifest that fits the graph in `file` best, as model `name`; for a `Trial` to run.

    Raises: ManifestError when the graph cannot be loaded, or no manifest could make it servable.
    """
    if not file.is_file():
        raise ManifestError(file, "file", "is missing; give an ONNX file")
    threads = settings.intra_op_threads
    session = Session(file, device=settings.device, intra_op_threads=threads, optimisation=optimisation)
    passed: list[Reading] = []
    failed: list[tuple[Reading, ManifestError]] = []
    for reading in find_readings(file, session):
        if passed and reading.likeness < passed[0].likeness:
            break
        problem = _try(file, _manifest(file, session, name, reading, []), settings, optimisation)
        if problem is None:
            passed.append(reading)
        else:
            failed.append((reading, problem))
    chosen, problem = (passed[0], None) if passed else failed[0]
    doubts = _doubts(session, chosen)
    doubts += [
        f"states: {told(other.pairs)} works as well; the names do not tell which is right" for other in passed[1:]
    ]
    if passed and failed and failed[0][0].likeness > chosen.likeness:
        doubts.append(f"states: the names suggest {told(failed[0][0].pairs)}, but only {told(chosen.pairs)} works")
    return Draft(_manifest(file, session, name, chosen, doubts), doubts, problem)


def _manifest(file: Path, session: Session, name: str, reading: Reading, doubts: Sequence[str]) -> Manifest:
    roles, dtypes = reading.roles, {node.name: node.dtype for node in (*session.inputs, *session.outputs)}
    described = "; ".join(f"({number}) {doubt}" for number, doubt in enumerate(doubts, start=1))
    made: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "step",
        "description": f"DRAFT, made from the graph alone. To settle: {described}",
        "file": "model.onnx",
        "sha256": sha256_of(file),
        "inputs": [_tensor(roles.sequence.name, dtypes, roles.shapes)],
        "outputs": [_tensor(output, dtypes, reading.made) for output in reading.outputs],
        "lengths": roles.lengths,
        "constants": {node.name: _stand_in(node) for node in roles.constants},
        "states": [
            {"input": given, "output": output, "dtype": dtypes[given], "shape": roles.shapes[given]}
            for given, output in reading.pairs
        ],
        "streamable": True,
    }
    try:
        return Manifest.model_validate(made)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        raise ManifestError(file, field_path(error["loc"]) or "inputs", error["msg"]) from None


def _tensor(name: str, dtypes: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {"name": name, "dtype": dtypes[name], "shape": shapes[name]}


def _stand_in(node: Node) -> int | list[int]:
    (size,) = (size for size in node.shape or (1,) if isinstance(size, int))  # the axis of a constant is fixed
    return STAND_IN if size == 1 else [STAND_IN] * size


def _try(file: Path, manifest: Manifest, settings: Settings, optimisation: Optimisation) -> ManifestError | None:
    """Load and probe the model as the service would."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            directory = Draft(manifest, [], None).write(file, Path(folder))
            read, threads = read_manifest(directory), settings.intra_op_threads
            model = load_model(
                directory, read, device=settings.device, intra_op_threads=threads, optimisation=optimisation
            )
            probe(Engine(model, settings, ModelMetrics(Metrics(), manifest.name, manifest.version)))
        except ManifestError as problem:
            return problem
    return None


def _doubts(session: Session, reading: Reading) -> list[str]:
    roles, shapes = reading.roles, reading.roles.shapes
    sequence, outputs = roles.sequence, reading.outputs
    doubts = []
    for node in roles.constants:
        value = _stand_in(node)
        absent = f"the value is not in the graph; {STAND_IN} stands in for it"
        if isinstance(value, list):
            absent = f"the {len(value)} values are not in the graph; {STAND_IN} stands in for each"
        doubts.append(f"constants.{node.name}: {absent}")
    if sequence.dtype in LARGEST_FLOAT:
        doubts.append(f"inputs[0]: what the values of {sequence.name} are, their order, units and scaling")
    else:
        doubts.append(
            f"inputs[0]: what the numbers of {sequence.name} stand for, and the largest; where they are ids of a "
            "tokenizer, add its file as text"
        )
    named = {str(sequence.shape[axis]) for axis in free_axes(sequence)} & {
        str(n.shape[free_axes(n)[0]]) for n in roles.states
    }
    if "time" in shapes[sequence.name] and not named - {"None"}:
        doubts.append(
            f"inputs[0].shape: {listed(shapes[sequence.name])} is a guess that works; the axes' names do not tell"
        )
    doubts += [f"outputs[{i}]: what the values of {name} mean; labels can name them" for i, name in enumerate(outputs)]
    if answering := [output for _, output in reading.pairs if output in outputs]:
        doubts.append(f"outputs: {', '.join(answering)} is a state, and the answer as the graph has no other output")
    for node in session.outputs:
        if node.name not in reading.made:
            doubts.append(f"outputs: {node.name} is left out: its type is {node.dtype}")
        elif node.name not in (*outputs, *(output for _, output in reading.pairs)):
            shape = listed(reading.made[node.name])
            doubts.append(f"outputs: {node.name} {shape} is left out: it has not one row per step")
    weak = [pair for pair in reading.pairs if likeness(*pair) < ALIKE]
    if weak:
        doubts.append(f"states: {told(weak)} by type, shape and order alone; the names are not alike")
    if "time" not in shapes[sequence.name]:
        doubts.append(
            "states: the pairs are read from names and shapes; without a time axis a wrong pair answers as smoothly "
            "as a right one, so compare a few steps with the original"
        )
    doubts.append("states: whether sessions begin at zeros, as drafted; start takes other values")
    doubts.append("provenance: where the weights come from, and their licence")
    return doubts
