"""The ear of the digit networks: frames of samples in, log-mel bands out, as products with constant matrices.

It knows samples, not data, layers or training. Invariant: a frame's bands come from the frame itself and the `BEFORE`
frames before it, so that neither what comes later nor the padding behind a row changes them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

RATE, FRAME = 8000, 80  # samples a second, and of a frame, which is 10 ms
BEFORE = 2  # frames that a spectrum reaches back
WINDOW = (BEFORE + 1) * FRAME  # samples of a spectrum
TRANSFORM = 256  # points of the Fourier transform; the window is filled with zeros
BANDS = 40
LOWEST_HZ = 60.0
FLOOR = 1e-6  # of a band's power, that of a sine of half a step of 16 bits
CENTRE, SPREAD = -3.0, 4.0  # of the logarithms, about


class LogMel(nn.Module):
    """Hear the loudness of `BANDS` bands of frequency in every frame."""

    spectrum: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spectrum", spectrum_matrix(), persistent=False)
        self.register_buffer("mel", mel_matrix(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Shapes: frames [batch, BEFORE + time, FRAME]; returns [batch, time, BANDS]. Units: samples in -1 to 1."""
        time = frames.shape[1] - BEFORE
        windows = torch.cat([frames[:, back : back + time] for back in range(BEFORE + 1)], 2)
        with torch.autocast(frames.device.type, enabled=False):  # bfloat16 hears no quiet band beside a loud one
            cosine, sine = (windows @ self.spectrum).chunk(2, 2)
            power = (cosine.square() + sine.square()) @ self.mel
            return (torch.log(power + FLOOR) - CENTRE) / SPREAD


def spectrum_matrix() -> Tensor:
    """Return the windowed Fourier transform of real samples. Shapes: [WINDOW, cosines and sines]."""
    time, bins = np.arange(WINDOW), np.arange(TRANSFORM // 2 + 1)
    angles = 2 * np.pi * np.outer(time, bins) / TRANSFORM
    transform = np.hanning(WINDOW)[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], 1)
    return torch.from_numpy(transform.astype(np.float32))


def mel_matrix() -> Tensor:
    """Return triangular filters, evenly spaced in mel. Shapes: [bins, BANDS].

    Source: O'Shaughnessy, Speech Communication: Human and Machine, 1987, for the scale.
    """
    bottom, top = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST_HZ, RATE / 2))
    edges = 700 * (10 ** (np.linspace(bottom, top, BANDS + 2) / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hertz = np.arange(TRANSFORM // 2 + 1)[:, None] * RATE / TRANSFORM
    rising, falling = (hertz - low) / (centre - low), (high - hertz) / (high - centre)
    return torch.from_numpy(np.minimum(rising, falling).clip(0).astype(np.float32))
