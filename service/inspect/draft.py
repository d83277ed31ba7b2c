"""The draft of a manifest for a foreign graph, tried before it is shown.

`service.inspect.interpretation` says what the graph can be; loading and `service.engine.probe` tell which
interpretation is right. It does not know what the numbers mean, and every draft says so. Invariant: a `Draft` without a
problem is served as it stands.
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

from service.contract.files import MANIFEST_FILE, explain, read_manifest, sha256_of
from service.contract.manifest import Manifest
from service.contract.members import Arithmetic
from service.engine.engine import Engine
from service.engine.probe import probe
from service.errors import ManifestError, StartupError
from service.inspect.axes import constant_of
from service.inspect.doubts import find_doubts
from service.inspect.hints import Hints
from service.inspect.interpretation import Interpretation, find_interpretations, told
from service.inspect.plain import find_plain
from service.inspect.purpose import Purpose, find_purpose
from service.inspect.roles import Shape
from service.inspect.tokens import NAME, read_tokens
from service.metrics import Metrics, ModelMetrics
from service.model.onnx_session import OnnxSession, Optimisation
from service.model.repository import load_model
from service.settings import Settings

SPLIT = re.compile(r"\n *")


@dataclass(frozen=True)
class Draft:
    """A manifest, the doubts about it, and the problem that keeps it from being served, or None; with `text` in the
    manifest, the file of its tokenizer."""

    manifest: Manifest
    doubts: list[str]
    problem: ManifestError | None
    tokenizer: Path | None = None

    def json(self) -> str:
        """Return the manifest as people write it: a shape on one line."""
        text = self.manifest.model_dump_json(indent=2, exclude_defaults=True)
        return re.sub(r"\[\n *([^\[\]{}]*?)\n *\]", lambda row: f"[{re.sub(SPLIT, ' ', row[1])}]", text) + "\n"

    def write(self, file: Path, models_dir: Path) -> Path:
        """Write the draft beside copies of its files as `models_dir/<name>/1`, and return that directory.

        Raises: StartupError when it is there already, or cannot be written; then nothing is.
        """
        directory = models_dir / self.manifest.name / self.manifest.version
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".") as folder:
                made = Path(folder) / directory.name
                made.mkdir()
                shutil.copyfile(file, made / self.manifest.file)
                if self.tokenizer is not None:
                    shutil.copyfile(self.tokenizer, made / NAME)
                (made / MANIFEST_FILE).write_text(self.json())
                made.rename(directory)
        except OSError as failure:
            raise StartupError(f"{directory} cannot be written: {failure.strerror}") from failure
        return directory


def draft(
    file: Path, name: str, settings: Settings, hints: Hints, task: str | None = None, *, optimisation: Optimisation
) -> Draft:
    """Return the manifest that fits the graph in `file` best, as model `name`; for a `Trial` to run.

    Its task is `task`; with None it is `step`, or, where the graph cannot be a step model, what the hints speak for, or
    `tensor`.

    Raises: ManifestError when the graph cannot be loaded, or no manifest could make it servable.
    """
    if not file.is_file():
        raise ManifestError(file, "file", "is missing; give an ONNX file")
    graph, device, threads = file.read_bytes(), settings.device, settings.intra_op_threads
    session = OnnxSession(file, graph, device=device, intra_op_threads=threads, optimisation=optimisation)
    hints.check(file, session)
    tokens = None if hints.tokenizer is None else read_tokens(hints.tokenizer)
    interpretations, refusal = _interpret(file, session, hints, task)
    passed: list[Purpose] = []
    failed: list[tuple[Purpose, ManifestError]] = []
    broken: list[ManifestError] = []
    for interpretation in interpretations:
        if passed and interpretation.rank > passed[0].interpretation.rank:
            break
        try:
            purpose = find_purpose(file, session, interpretation, hints, tokens, task)
            made = Draft(_manifest(file, session, name, purpose, hints, []), [], None, hints.tokenizer)
        except ManifestError as failure:
            broken.append(failure)
            continue
        problem = _try(file, made, settings, optimisation)
        if problem is None:
            passed.append(purpose)
        else:
            failed.append((purpose, problem))
    if not passed and not failed:
        raise broken[0]
    chosen, problem = (passed[0], _unsaid(file, passed[0].interpretation)) if passed else failed[0]
    read = chosen.interpretation
    doubts = [*_refused(refusal, chosen), *chosen.doubts()]
    doubts += find_doubts(session, read, hints, others=[other.interpretation for other in passed[1:]])
    if passed and failed and failed[0][0].interpretation.rank < read.rank:
        doubts.append(f"the names suggest {failed[0][0].interpretation.choice}, but only {read.choice} works")
    return Draft(_manifest(file, session, name, chosen, hints, doubts), doubts, problem, hints.tokenizer)


def _interpret(
    file: Path, session: OnnxSession, hints: Hints, task: str | None
) -> tuple[list[Interpretation], ManifestError | None]:
    """Return how the graph can be understood, and, where it has no states unasked, why: it is no step model.

    Raises: ManifestError when there is no way to understand it.
    """
    if task == "tensor":
        return find_plain(file, session, hints), None
    try:
        return find_interpretations(file, session, hints), None
    except ManifestError as failure:
        if task == "step" or hints.states or failure.field == "--axis":
            raise
        refusal = failure
    try:
        plain = find_plain(file, session, hints)
    except ManifestError as other:
        raise ManifestError(
            file, refusal.field, f"{refusal.message}; nor is it a plain model: {other.message}"
        ) from None
    return plain, refusal


def _refused(refusal: ManifestError | None, purpose: Purpose) -> list[str]:
    """Return the doubt that a graph is no step model, where that is why it is drafted as something else."""
    if refusal is None:
        return []
    if purpose.task == "tensor":
        return [f"task: a plain model, for it is no step model ({refusal.field}: {refusal.message})"]
    why = refusal.message.partition("; ")[0]
    return [f"streamable: it reads whole sequences, for it is no step model ({refusal.field}: {why})"]


def _unsaid(file: Path, interpretation: Interpretation) -> ManifestError | None:
    """Return the question to the person if a pair is a guess: such a draft runs, but its answers may mean nothing."""
    guessed = interpretation.guessed
    if not guessed:
        return None
    options, given = " ".join(f"--state {state}={output}" for state, output in guessed), guessed[0][0]
    axes = ",".join(map(str, interpretation.roles.shapes[given]))
    message = (
        f"type and shape alone speak for {told(guessed)}, not the names; is each of these the state before and after a "
        f"step? If so, say it: {options}. If not, say what it is: --axis {given}={axes} for the sequence, --constant "
        "for what stays the same. If nothing is carried from step to step, draft a plain model: --task tensor"
    )
    return ManifestError(file, "states", message)


def _manifest(
    file: Path, session: OnnxSession, name: str, purpose: Purpose, hints: Hints, doubts: Sequence[str]
) -> Manifest:
    interpretation = purpose.interpretation
    roles, dtypes = interpretation.roles, {node.name: node.dtype for node in (*session.inputs, *session.outputs)}
    described = "; ".join(f"({number}) {doubt}" for number, doubt in enumerate(doubts, start=1))
    made: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": purpose.task,
        "description": f"DRAFT, made from the graph alone. To settle: {described}",
        "file": "model.onnx",
        "sha256": sha256_of(file),
        "inputs": [_tensor(node.name, dtypes, roles.shapes) for node in roles.inputs],
        "outputs": [
            {**_tensor(output, dtypes, interpretation.made), "labels": hints.labels.get(output)}
            for output in interpretation.outputs
        ],
        "lengths": roles.lengths.name if roles.lengths else None,
        "constants": {node.name: constant_of(node, hints) for node in roles.constants},
        "states": [
            {"input": given, "output": output, "dtype": dtypes[given], "shape": roles.shapes[given]}
            for given, output in interpretation.pairs
        ],
        "streamable": not interpretation.plain,
        "text": None if purpose.tokens is None else purpose.tokens.text,
        "feedback": purpose.feedback,
        "arithmetic": _arithmetic(session, [dtypes[name] for name in (*roles.shapes, *interpretation.outputs)]),
    }
    try:
        return Manifest.model_validate(made)
    except ValidationError as failure:
        raise explain(file, failure) from None


def _arithmetic(session: OnnxSession, dtypes: Sequence[str]) -> Arithmetic:
    if session.dynamic_int8:
        return "int8"
    return "float16" if "float16" in dtypes else "float32"  # values of float16 are no nearer to each other


def _tensor(name: str, dtypes: Mapping[str, str], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    return {"name": name, "dtype": dtypes[name], "shape": shapes[name]}


def _try(file: Path, made: Draft, settings: Settings, optimisation: Optimisation) -> ManifestError | None:
    """Load and probe the model as the service would; return the problem, or None."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            directory = made.write(file, Path(folder))
            read, threads = read_manifest(directory), settings.intra_op_threads
            model = load_model(
                directory, read, device=settings.device, intra_op_threads=threads, optimisation=optimisation
            )
            probe(Engine(model, settings, ModelMetrics(Metrics(), read.name, read.version)))
        except ManifestError as problem:
            return problem
    return None
