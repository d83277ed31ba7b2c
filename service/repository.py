"""Models on disk: `<models_dir>/<name>/<version>/`, read, verified and loaded.

It knows directories, manifests and sessions, not requests. Invariant: a `Model` that exists keeps its contract as far
as files and graph can show; how it behaves is for `service.probe` to try.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# A batch of texts is tokenised on its model's thread: the library's own threads would want the cores that runs, the
# event loop and other workers have.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from tokenizers import Tokenizer

from service.contract import MANIFEST_FILE, Manifest, Text, read_manifest, verify_files
from service.errors import ManifestError
from service.graph import check_graph
from service.runtime import Optimisation, Session


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokenizer, and the id it gives to what it has not seen."""

    tokenizer: Tokenizer
    unknown_id: int

    def unknown_ratio(self, ids: list[int]) -> float:
        """Return the share of `ids` (at least one) that are unknown."""
        return ids.count(self.unknown_id) / len(ids)


@dataclass(frozen=True)
class Model:
    """One loaded version of one model; `file` is its manifest."""

    manifest: Manifest
    file: Path
    session: Session
    vocabulary: Vocabulary | None


def find_versions(models_dir: Path) -> list[Path]:
    """Return every version directory, by name and rising version; dot-directories are drafts and passed over.

    Raises: ManifestError when there is no such directory or it holds no model.
    """
    if not models_dir.is_dir():
        raise ManifestError(models_dir, "models_dir", "is no directory; BATON_MODELS_DIR must name one")
    found = [
        version
        for model in sorted(models_dir.iterdir())
        if model.is_dir() and not model.name.startswith(".")
        for version in sorted(model.iterdir(), key=lambda path: (len(path.name), path.name))
        if version.is_dir() and not version.name.startswith(".")
    ]
    if not found:
        raise ManifestError(models_dir, "models_dir", f"holds no <name>/<version>/{MANIFEST_FILE}")
    return found


def read_verified(directory: Path) -> Manifest:
    """Return the manifest of a version directory whose files are what it says.

    Raises: ManifestError as `read_manifest` and `verify_files` do.
    """
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    return manifest


def load_model(
    directory: Path, manifest: Manifest, *, device: str, intra_op_threads: int, optimisation: Optimisation
) -> Model:
    """Load one version directory, whose files must be those that `manifest` names.

    Raises: ManifestError for a broken contract; DeviceUnavailable when `device` is cuda and cannot be had.
    """
    verify_files(directory, manifest)
    file = directory / MANIFEST_FILE
    vocabulary = _load_vocabulary(directory, manifest.text) if manifest.text is not None else None
    session = Session(
        directory / manifest.file, device=device, intra_op_threads=intra_op_threads, optimisation=optimisation
    )
    check_graph(session, file, manifest)
    return Model(manifest, file, session, vocabulary)


def _load_vocabulary(directory: Path, text: Text) -> Vocabulary:
    file = directory / MANIFEST_FILE
    try:
        tokenizer = Tokenizer.from_file(str(directory / text.tokenizer))
    except Exception as failure:  # the library raises bare Exceptions
        raise ManifestError(file, "text.tokenizer", f"the tokenizers library cannot load it: {failure}") from failure
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown_id = tokenizer.token_to_id(text.unknown_token)
    if unknown_id is None:
        message = f"{text.unknown_token!r} is not in the vocabulary of {text.tokenizer}"
        raise ManifestError(file, "text.unknown_token", message)
    return Vocabulary(tokenizer, unknown_id)
