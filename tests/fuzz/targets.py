"""What is fuzzed: each target reads bytes as the service reads what strangers send, and raises what is documented.

It knows the readers, not what feeds them. Invariant: a target returns, or raises one of the errors in its row; anything
else is a finding.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import tempfile
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny
from connections import HANDSHAKE, Wire

from service.cli.series import Layout, read_columns
from service.cli.sources import Source
from service.contract.files import read_manifest
from service.contract.manifest import Manifest
from service.endpoints.classify.audio import read_wav
from service.endpoints.stateful.frames import Opening, StepFrame, read_binary
from service.endpoints.stateful.step_json import read_row
from service.endpoints.v2.schema import InferRequest
from service.endpoints.v2.tensors import read_tensors
from service.errors import CommandError, ManifestError, RequestError
from service.settings import Settings
from service.state.keys import KeyRing
from service.state.sessions import Point
from service.state.token import Sealer
from service.web.schema import read_whole

SETTINGS = Settings()
NOW = 1_700_000_000.0
KEY = urlsafe_b64encode(bytes(range(32))).decode()
SEALER = Sealer(KeyRing([KEY]), ttl_s=60, skew_s=60, clock=lambda: NOW)
TENANT = "acme"


@dataclass(frozen=True)
class Target:
    """A reader, and the errors that it may raise."""

    read: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]


def open_token(data: bytes) -> None:
    SEALER.maker(data, longest_payload_bytes=1024)
    SEALER.open(data, tenant=TENANT)


@cache
def _folder() -> Path:
    """Return a folder that is there until the process ends."""
    folder = tempfile.mkdtemp(prefix="baton-fuzz-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


@cache
def _directory() -> Path:
    directory = _folder() / "read" / "stepper" / "1"
    directory.mkdir(parents=True)
    return directory


def read_model_manifest(data: bytes) -> None:
    """Read a manifest, and what is derived of one that is sound."""
    (_directory() / "manifest.json").write_bytes(data)
    manifest = read_manifest(_directory())
    for name, member in vars(Manifest).items():
        if isinstance(member, property) and name not in ("model_extra", "model_fields_set"):
            getattr(manifest, name)


def read_binary_tensors(data: bytes) -> None:
    """Read a body of the protocol whose JSON is as long as the first two bytes say."""
    size = int.from_bytes(data[:2], "little")
    head, tail = data[2 : 2 + size], data[2 + size :]
    read_tensors(read_whole(InferRequest, head), tail)


@cache
def _points() -> tuple[Point, ...]:
    """Return points of sessions of models that take features, numbers and texts; the models themselves are not run."""
    made = [build(_folder()) for build in (tiny.stepper, tiny.number_stepper, tiny.reader)]
    engines: list[Any] = [SimpleNamespace(manifest=read_manifest(directory)) for directory in made]
    return tuple(Point(engine, None, bytes(16), 0, held=False) for engine in engines)


def read_frame(data: bytes) -> None:
    """Read a frame of a stream, of the kind that the first byte says, as one of a session of some model."""
    kind, point = data[:1], _points()[len(data) % 3]
    if kind == b"o":
        read_whole(Opening, data[1:].decode(errors="replace"))
    elif kind == b"t":
        read_row(read_whole(StepFrame, data[1:].decode(errors="replace")), point, SETTINGS)
    else:
        read_binary(data[1:], point, SETTINGS)


@cache
def _wire() -> Wire:
    return Wire()


def _pieces(data: bytes) -> list[bytes]:
    """Return what follows the first byte, in pieces as long as that says, or whole where it is 0."""
    size, rest = data[0] if data else 0, data[1:]
    return [rest[start : start + size] for start in range(0, len(rest), size)] if size else [rest]


def serve_http(data: bytes) -> None:
    _wire().carry(_pieces(data))


def serve_stream(data: bytes) -> None:
    _wire().carry([HANDSHAKE, *_pieces(data)])


def read_recording(data: bytes) -> None:
    read_wav(b64encode(data).decode(), 8000, 4096)


def read_series(data: bytes) -> None:
    """Read columns of a CSV file, in the way that the first byte chooses."""
    way, file = data[0] if data else 0, _folder() / "series.csv"
    file.write_bytes(data[1:])
    layout = Layout(
        columns=("value", "other") if way & 1 else ("value",),
        time="time" if way & 2 else None,
        by="by" if way & 4 else None,
        freq="D" if way & 8 else None,
        day_first=bool(way & 16),
        duplicates="mean" if way & 32 else None,
        gaps="linear" if way & 64 else "zero" if way & 128 else None,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        source = Source(str(file), "csv")
        for series in read_columns(source, layout):
            assert isinstance(series, CommandError) or series.values is not None


TARGETS = {
    "token": Target(open_token, (RequestError,)),
    "manifest": Target(read_model_manifest, (ManifestError,)),
    "tensors": Target(read_binary_tensors, (RequestError,)),
    "frames": Target(read_frame, (RequestError,)),
    "http": Target(serve_http, ()),
    "websocket": Target(serve_stream, ()),
    "wav": Target(read_recording, (RequestError,)),
    "csv": Target(read_series, (CommandError,)),
}
