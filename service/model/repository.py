"""Models on disk: `<models_dir>/<name>/<version>/`, read, verified and loaded.

It knows directories, manifests and ONNX sessions, not requests. Invariant: a `Model` that exists keeps its contract as
far as files and graph can show; `service.engine.probe` tries how it behaves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Unpack

from service.contract.files import MANIFEST_FILE, hold_files, read_manifest, verify_files
from service.contract.manifest import Manifest
from service.errors import ManifestError
from service.model.graph_check import check_graph, takes_one_row
from service.model.onnx_session import OnnxSession, Options
from service.model.vocabulary import Vocabulary, read_vocabulary

log = logging.getLogger("baton.repository")


@dataclass(frozen=True)
class Model:
    """A loaded version of a model; `file` is its manifest, and with `one_row` a graph of it takes a row at a time.

    `starter` is its start graph, where it has one.
    """

    manifest: Manifest
    file: Path
    session: OnnxSession
    vocabulary: Vocabulary | None
    starter: Model | None

    @property
    def device(self) -> str:
        return self.session.device

    @property
    def one_row(self) -> bool:
        alone = takes_one_row(self.session, self.manifest)
        return alone or (self.starter is not None and self.starter.one_row)

    def close(self) -> None:
        """Let go of what loading needs, as nothing is left to load."""


@dataclass
class LazyModel:
    """A version that is loaded when a graph or tokenizer of it is first used; what is known before, a trial found.

    `close` lets go of the files, should they not have been loaded.
    """

    manifest: Manifest
    file: Path
    load: Callable[[], Model]
    close: Callable[[], None]
    device: str
    one_row: bool

    def __post_init__(self) -> None:
        self._loading = Lock()
        self._model: Model | None = None

    @property
    def _loaded(self) -> Model:
        with self._loading:  # a model and its start graph are asked for on threads of their own
            if self._model is None:
                log.info("loading %s %s, which is asked for", self.manifest.name, self.manifest.version)
                self._model = self.load()
            return self._model

    @property
    def session(self) -> OnnxSession:
        return self._loaded.session

    @property
    def vocabulary(self) -> Vocabulary | None:
        return self._loaded.vocabulary

    @cached_property
    def starter(self) -> LazyModel | None:
        if self.manifest.starter is None:
            return None
        return replace(self, manifest=self.manifest.starter, load=self._load_starter)

    def _load_starter(self) -> Model:
        assert self._loaded.starter is not None
        return self._loaded.starter


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
        self._directory, self._files = directory, hold_files(directory, manifest)

    def load(self, **options: Unpack[Options]) -> Model:
        """Load the model from its files, which must be those that the manifest names.

        Raises: ManifestError for a broken contract; DeviceUnavailable when `device` is cuda and cannot be had.
        """
        with self._files as files:
            starter = None
            if self.manifest.starter is not None:
                with ManifestError.within("start."):
                    starter = self._load(self.manifest.starter, partial(files.read, within="start."), None, options)
            return self._load(self.manifest, files.read, starter, options)

    def _load(self, manifest: Manifest, read: Callable[[str], bytes], starter: Model | None, options: Options) -> Model:
        text = manifest.text
        vocabulary = None if text is None else read_vocabulary(self.file, text, read("text.tokenizer"))
        session = OnnxSession(self._directory / manifest.file, read("file"), **options)
        check_graph(session, self.file, manifest)
        return Model(manifest, self.file, session, vocabulary, starter)

    def close(self) -> None:
        self._files.close()


def load_model(directory: Path, manifest: Manifest, **options: Unpack[Options]) -> Model:
    """Load a version directory, whose files must be those that `manifest` names.

    Raises: ManifestError for a broken contract; DeviceUnavailable when `device` is cuda and cannot be had.
    """
    return Source(directory, manifest).load(**options)
