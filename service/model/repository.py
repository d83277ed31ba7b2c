"""Models on disk: `<models_dir>/<name>/<version>/`, read, verified and loaded.

It knows directories, manifests and ONNX sessions, not requests. Invariant: a `Model` that exists keeps its contract as
far as files and graph can show; `service.engine.probe` tries how it behaves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from service.contract.files import MANIFEST_FILE, hold_files, read_manifest, verify_files
from service.contract.manifest import Manifest
from service.errors import ManifestError
from service.model.graph_check import check_graph, takes_one_row
from service.model.onnx_session import OnnxSession, Optimisation
from service.model.vocabulary import Vocabulary, read_vocabulary

log = logging.getLogger("baton.repository")


@dataclass(frozen=True)
class Model:
    """A loaded version of a model; `file` is its manifest, and with `one_row` its graph takes a row at a time."""

    manifest: Manifest
    file: Path
    session: OnnxSession
    vocabulary: Vocabulary | None

    @property
    def device(self) -> str:
        return self.session.device

    @property
    def one_row(self) -> bool:
        return takes_one_row(self.session, self.manifest)

    def close(self) -> None:
        """Let go of what loading needs, as nothing is left to load."""


@dataclass
class LazyModel:
    """A version that is loaded when its graph or its tokenizer is first used; what is known before, a trial found."""

    source: Source
    load: Callable[[], Model]
    device: str
    one_row: bool

    @property
    def manifest(self) -> Manifest:
        return self.source.manifest

    @property
    def file(self) -> Path:
        return self.source.file

    @cached_property
    def _loaded(self) -> Model:
        log.info("loading %s %s, which is asked for", self.manifest.name, self.manifest.version)
        return self.load()

    @property
    def session(self) -> OnnxSession:
        return self._loaded.session

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._loaded.vocabulary

    def close(self) -> None:
        """Let go of the files, should they not have been loaded."""
        self.source.close()


def find_versions(models_dir: Path, *, loaded: Collection[Path] = (), of: str | None = None) -> list[Path]:
    """Return every version directory, by name and rising version; with `of`, those of the model called so.

    A folder whose name is a number, or that holds a manifest, is a version, broken or not. Other folders, such as
    `lost+found`, and folders that cannot be read are passed over with a line in the log; files and dot-directories
    without a line.

    Raises: ManifestError when `models_dir` is no directory or holds no model, or when a folder cannot be read that has
    one of the versions in `loaded`: these do not count as gone.
    """
    if not os.path.isdir(models_dir):
        raise ManifestError(models_dir, "models_dir", "is no directory; BATON_MODELS_DIR must name one")
    found = []
    for model in sorted(model for model in _list(models_dir) if of in (None, model.name)):
        try:
            versions, others = _split(model)
        except ManifestError as failure:
            if any(version.is_relative_to(model) for version in loaded):
                raise
            log.warning("passed over: %s", failure)
            continue
        for other in filter(os.path.isdir, others if versions else [model]):
            log.warning("passed over: %s holds no model; one is <name>/<version>/%s", other, MANIFEST_FILE)
        found += versions
    if not found:
        raise ManifestError(models_dir, "models_dir", f"holds no {of or '<name>'}/<version>/{MANIFEST_FILE}")
    return found


def list_versions(models_dir: Path) -> list[Path]:
    """Return the version directories that can be read, without a word of what else is there."""
    found: list[Path] = []
    with suppress(ManifestError):
        for model in _list(models_dir):
            with suppress(ManifestError):
                found += _split(model)[0]
    return found


def _split(model: Path) -> tuple[list[Path], list[Path]]:
    """Return the version directories in the folder of a model, by rising version, and what else is in it.

    Raises: ManifestError when it cannot be read.
    """
    entries = _list(model)
    versions = [entry for entry in entries if entry.name.isdecimal() or os.path.isfile(entry / MANIFEST_FILE)]
    others = [entry for entry in entries if entry not in versions]
    return sorted(versions, key=lambda path: (len(path.name), path.name)), others


def _list(directory: Path) -> list[Path]:
    """Return the entries of a directory without dot-files, or nothing for a file.

    Raises: ManifestError when it cannot be read.
    """
    try:
        return [path for path in directory.iterdir() if not path.name.startswith(".")]
    except NotADirectoryError:
        return []
    except OSError as failure:
        raise ManifestError(directory, "models_dir", f"cannot be read: {failure.strerror}") from failure


def read_verified(directory: Path) -> Manifest:
    """Return the manifest of a version directory, with its files verified.

    Raises: ManifestError as `read_manifest` and `verify_files` do.
    """
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    return manifest


class Source:
    """A version directory from which the model is loaded, once; its files are held open until then, or `close`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Raises: ManifestError for a file that is missing or cannot be read."""
        self.manifest, self.file = manifest, directory / MANIFEST_FILE
        self._graph, self._files = directory / manifest.file, hold_files(directory, manifest)

    def load(self, *, device: str, intra_op_threads: int, optimisation: Optimisation) -> Model:
        """Load the model from its files, which must be those that the manifest names.

        Raises: ManifestError for a broken contract; DeviceUnavailable when `device` is cuda and cannot be had.
        """
        with self._files as files:
            text = self.manifest.text
            vocabulary = None if text is None else read_vocabulary(self.file, text, files.read("text.tokenizer"))
            session = OnnxSession(
                self._graph,
                files.read("file"),
                device=device,
                intra_op_threads=intra_op_threads,
                optimisation=optimisation,
            )
        check_graph(session, self.file, self.manifest)
        return Model(self.manifest, self.file, session, vocabulary)

    def close(self) -> None:
        self._files.close()


def load_model(
    directory: Path, manifest: Manifest, *, device: str, intra_op_threads: int, optimisation: Optimisation
) -> Model:
    """Load a version directory, whose files must be those that `manifest` names.

    Raises: ManifestError for a broken contract; DeviceUnavailable when `device` is cuda and cannot be had.
    """
    source = Source(directory, manifest)
    return source.load(device=device, intra_op_threads=intra_op_threads, optimisation=optimisation)
