"""A version directory as files: its manifest is read and validated, and the files that it names are hashed.

It knows directories and the manifest, not what a graph says of itself. Invariant: what a manifest says of its files is
true once `verify_files` returned.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from service.contract.manifest import Manifest
from service.contract.tensors import FieldError
from service.errors import ManifestError

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


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
        manifest = Manifest.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise ManifestError(file, "file", "is missing; every model version needs one") from None
    except OSError as failure:
        raise ManifestError(file, "file", f"cannot be read: {failure.strerror}") from None
    except ValidationError as failure:
        raise _explain(file, failure) from None
    for field, told, found in (
        ("name", manifest.name, directory.parent.name),
        ("version", manifest.version, directory.name),
    ):
        if told != found:
            raise ManifestError(file, field, f"is {told!r}, but the directory is named {found!r}; they must agree")
    return manifest


def _explain(file: Path, failure: ValidationError) -> ManifestError:
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
    named = [("file", manifest.file, "sha256", manifest.sha256)]
    if manifest.text is not None:
        named.append(("text.tokenizer", manifest.text.tokenizer, "text.sha256", manifest.text.sha256))
    for field, name, hash_field, declared in named:
        path = directory / name
        if not path.is_file():
            raise ManifestError(directory / MANIFEST_FILE, field, f"{name} is missing from {directory}")
        try:
            found = sha256_of(path)
        except OSError as failure:
            raise ManifestError(
                directory / MANIFEST_FILE, field, f"{name} cannot be read: {failure.strerror}"
            ) from None
        if found != declared:
            raise ManifestError(directory / MANIFEST_FILE, hash_field, f"is {declared}, but {name} hashes to {found}")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
