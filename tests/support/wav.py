"""WAV files for the tests, in base64."""

from __future__ import annotations

import io
from base64 import b64encode

import numpy as np
import soundfile


def write(samples: np.ndarray, rate: int, subtype: str = "PCM_16", container: str = "WAV") -> bytes:
    """Return a file. Shapes: samples [time] or [time, channels]."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=container)
    return file.getvalue()


def encode(content: bytes) -> str:
    return b64encode(content).decode()
