"""A model as files: a version's manifest is read and validated, and the files that it names are hashed.

It knows directories and the manifest, not what a graph says of itself. Invariant: what a manifest says of its files is
true once `verify_files` returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from service.contract.manifest import Manifest
from service.contract.tensors import FieldError
from service.errors import ManifestError

MANIFEST_FILE = "manifest.json"
CHOICE_FILE = "serve.json"  # beside the versions of a model
SCHEMA_VERSION = 1
NOT_OWN = "is no file of its directory; a model is read from there alone, so put the file itself in the place of a link"
MOST_JSON_BYTES = 16 * 2**20  # of a manifest, whose labels of 100,000 tokens would take a tenth of it


def field_path(location: tuple[int | str, ...]) -> str:
    """Write a pydantic location the way a person would: `states[0].shape`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def read_manifest(directory: Path) -> Manifest:
    """Read and validate `directory/manifest.json`.

    Raises: ManifestError naming file and field, for a missing or malformed file, an unknown schema version, a broken
    rule, or a name or version that differs from the directory's.
    """
    file = directory / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(_read_json(file))
    except FileNotFoundError:
        raise ManifestError(file, "file", "is missing; every model version needs one") from None
    except OSError as failure:
        raise ManifestError(file, "file", f"cannot be read: {failure.strerror}") from None
    except ValidationError as failure:
        raise explain(file, failure) from None
    for field, told, found in (
        ("name", manifest.name, directory.parent.name),
        ("version", manifest.version, directory.name),
    ):
        if told != found:
            raise ManifestError(file, field, f"is {told!r}, but the directory is named {found!r}; they must agree")
    return manifest


class Choice(BaseModel):
    """What CHOICE_FILE says: the version that answers new work, where that is not the newest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str


def read_choice(model: Path, versions: Collection[str]) -> str | None:
    """Return which of a model's `versions` answers new work, if a file in its directory says so.

    Raises: ManifestError naming file and field, for a malformed file, or one that names a version that is not there.
    """
    file = model / CHOICE_FILE
    try:
        choice = Choice.model_validate_json(_read_json(file))
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise ManifestError(file, "file", f"cannot be read: {failure.strerror}") from None
    except ValidationError as failure:
        raise explain(file, failure) from None
    if choice.version not in versions:
        raise ManifestError(file, "version", f"is {choice.version!r}, but the versions are {', '.join(versions)}")
    return choice.version


def is_own(file: Path, directory: Path) -> bool:
    """Return whether `file` is a regular file that lies in `directory`, whatever links lead to it."""
    return file.is_file() and file.resolve().is_relative_to(directory.resolve())


def _read_json(file: Path) -> bytes:
    """Raises: ManifestError for what is no file of its directory, or too large; OSError when it cannot be read."""
    size = file.stat().st_size
    if not (file.is_dir() or is_own(file, file.parent)):
        raise ManifestError(file, "file", NOT_OWN)
    if size > MOST_JSON_BYTES:
        raise ManifestError(file, "file", f"has {size} bytes; {MOST_JSON_BYTES} are the most")
    return file.read_bytes()


def explain(file: Path, failure: ValidationError) -> ManifestError:
    """Return the first rule that what `file` holds breaks, with its field."""
    errors = failure.errors(include_url=False)
    versions = [error for error in errors if error["loc"] == ("schema_version",)]
    error = (versions or errors)[0]
    if versions and error["type"] != "missing":
        message = f"{error['input']!r} is not known here; this service reads schema version {SCHEMA_VERSION}"
        return ManifestError(file, "schema_version", message)
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return ManifestError(file, field_path((*error["loc"], cause.field)), str(cause))
    return ManifestError(file, field_path(error["loc"]) or "file", error["msg"])


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check that the files the manifest names exist and hash as declared.

    Raises: ManifestError naming the manifest, the field and the hash or file that would be right.
    """
    with hold_files(directory, manifest) as held:
        held.verify()


def hold_files(directory: Path, manifest: Manifest) -> HeldFiles:
    """Open the files that the manifest names.

    Raises: ManifestError naming the manifest and the field, for a file that is missing or cannot be read.
    """
    named = []
    for within, part in (("", manifest), ("start.", manifest.start)):
        if part is not None:
            named.append(_Named(f"{within}file", part.file, f"{within}sha256", part.sha256))
            if part.text is not None:
                text = f"{within}text."
                named.append(_Named(f"{text}tokenizer", part.text.tokenizer, f"{text}sha256", part.text.sha256))
    return HeldFiles(directory, named)


@dataclass(frozen=True)
class _Named:
    """A file that a manifest names in `field`, and its hash in `hash_field`."""

    field: str
    name: str
    hash_field: str
    sha256: str


class HeldFiles:
    """The files of a version, held open until `close`: they can be read when their directory is gone."""

    def __init__(self, directory: Path, named: Sequence[_Named]) -> None:
        self._directory, self._open = directory, ExitStack()
        self._named = {each.field: each for each in named}
        self._files = {each.field: self._hold(each) for each in named}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def verify(self) -> None:
        """Raises: ManifestError for a file that does not hash as declared."""
        for field, file in self._files.items():
            self._check(field, hashlib.file_digest(file, "sha256").hexdigest())

    def read(self, field: str, *, within: str = "") -> bytes:
        """Return what the file holds that the manifest names in `field`, or in that of a part of it, as `start.`.

        Raises: ManifestError when it does not hash as declared.
        """
        field = within + field
        self._files[field].seek(0)
        content = self._files[field].read()
        self._check(field, hashlib.sha256(content).hexdigest())
        return content

    def _hold(self, named: _Named) -> BufferedReader:
        path, manifest = self._directory / named.name, self._directory / MANIFEST_FILE
        if not path.is_file():
            self.close()
            raise ManifestError(manifest, named.field, f"{named.name} is missing from its directory")
        if not is_own(path, self._directory):
            self.close()
            raise ManifestError(manifest, named.field, f"{named.name} {NOT_OWN}")
        try:
            return self._open.enter_context(path.open("rb"))
        except OSError as failure:
            self.close()
            raise ManifestError(manifest, named.field, f"{named.name} cannot be read: {failure.strerror}") from None

    def _check(self, field: str, found: str) -> None:
        named = self._named[field]
        if found != named.sha256:
            message = f"is {named.sha256}, but {named.name} hashes to {found}"
            raise ManifestError(self._directory / MANIFEST_FILE, named.hash_field, message)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
