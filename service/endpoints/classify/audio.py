"""Audio in requests: WAV files in base64, into samples at the rate that a model takes.

It knows files and samples, not models. Invariant: what a file would take, in time and memory, is known from its header,
and too much is refused before anything is decoded.
"""

from __future__ import annotations

import io
import math
from base64 import b64decode
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from service.errors import EmptyInput, InvalidRequest, ItemTooLarge, NotFinite
from service.model.onnx_session import Array

WIDTHS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
SIZE_UNKNOWN = 0xFFFFFFFF  # of a file that was written to a pipe
RIFF_HEAD = 8  # bytes that the size in a file's head, or in a chunk's, does not count
FIRST_CHUNK = 12  # its place
MOST_UP, MOST_DOWN = 6, 50  # times that the rate may rise, so that a small file stays small, or fall, which costs time


@dataclass(frozen=True)
class Recording:
    """Samples at the rate that was asked for. Units: seconds, as sent. Shapes: samples [time] float32."""

    samples: Array
    seconds: float


def read_wav(text: str, sample_rate: int, most: int) -> Recording:
    """Return what a WAV file in base64 holds, its channels averaged; at most so many samples at `sample_rate`.

    Raises: InvalidRequest for what is no WAV file, not whole, or of a rate that is too far off; EmptyInput,
    ItemTooLarge or NotFinite for what it holds.
    """
    try:
        content = b64decode(text, validate=True)
    except ValueError as failure:
        raise InvalidRequest(f"is no base64: {failure}") from None
    _check_head(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.subtype not in WIDTHS:
                raise InvalidRequest(f"has {file.subtype} samples; send 8, 16, 24 or 32 bits, or floats")
            seconds = file.frames / file.samplerate
            _check_length(file, sample_rate, most)
            channels = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except soundfile.LibsndfileError as failure:
        raise InvalidRequest(f"is no WAV file that can be read: {failure.error_string}") from None
    if not np.isfinite(channels).all():
        raise NotFinite("a sample is not finite")
    mono = channels.mean(axis=1)
    samples = mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate)
    if not len(samples):
        raise EmptyInput(f"{file.frames} samples at {rate} Hz are none at {sample_rate} Hz, which the model takes")
    return Recording(samples, seconds)


def _check_head(content: bytes) -> None:
    """Check that a file is WAV and whole, before the library looks for one of its many formats in it.

    Raises: InvalidRequest.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise InvalidRequest("is no WAV file, which begins with RIFF, a size and WAVE")
    size = int.from_bytes(content[4:RIFF_HEAD], "little")
    if size != SIZE_UNKNOWN and size + RIFF_HEAD > len(content):
        raise InvalidRequest(f"is cut short: {len(content)} bytes came of the {size + RIFF_HEAD} that its head says")
    place, kind, size = FIRST_CHUNK, b"", 0
    while kind != b"data" and place + RIFF_HEAD <= len(content):
        place += size + size % 2
        kind, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + RIFF_HEAD], "little")
        place += RIFF_HEAD
    came = len(content) - place
    if kind == b"data" and size != SIZE_UNKNOWN and size > came:
        raise InvalidRequest(f"is cut short: {came} bytes of samples came of the {size} that its data chunk says")


def _check_length(file: soundfile.SoundFile, sample_rate: int, most: int) -> None:
    """Raises: InvalidRequest, EmptyInput or ItemTooLarge."""
    rate, frames = file.samplerate, file.frames
    slowest, fastest = math.ceil(sample_rate / MOST_UP), sample_rate * MOST_DOWN
    if not slowest <= rate <= fastest:
        raise InvalidRequest(f"has {rate} samples a second; this model takes {slowest} to {fastest}")
    if not frames:
        raise EmptyInput("no samples; give at least one")
    if math.ceil(frames * sample_rate / rate) > most:
        message = f"{frames / rate:.6g} seconds; at most {most / sample_rate:.6g} in one item"
        raise ItemTooLarge(message, limit=most / sample_rate)
