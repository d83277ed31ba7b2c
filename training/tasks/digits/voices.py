"""A disguise of log-mel bands for training: other microphones and rooms, and parts that were not heard.

It knows bands, no network or data. Invariant: outside training nothing is changed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.tasks.digits.features import BANDS

COLOURS = 5  # cosines along the bands that make up a microphone's colour
MASKS = 2  # in either direction


class Disguise(nn.Module):
    """Colour each row's bands, and hide stripes of bands and of frames.

    Source: Park et al., SpecAugment, Interspeech 2019, for the stripes.
    """

    cosines: Tensor

    def __init__(self, colour: float, widest: int) -> None:
        """`colour` is the standard deviation of each cosine's height; stripes are up to `widest` wide."""
        super().__init__()
        self.colour, self.widest = colour, widest
        waves = torch.arange(COLOURS)[:, None] * (torch.arange(BANDS) + 0.5) * torch.pi / BANDS
        self.register_buffer("cosines", waves.cos(), persistent=False)

    def forward(self, bands: Tensor) -> Tensor:
        """Shapes: bands [batch, time, BANDS]; returns the same."""
        if not self.training:
            return bands
        heights = self.colour * torch.randn(len(bands), COLOURS, device=bands.device)
        bands = bands + (heights @ self.cosines)[:, None]
        for _ in range(MASKS):
            bands = bands.masked_fill(self._stripes(bands, 1)[..., None], 0.0)
            bands = bands.masked_fill(self._stripes(bands, 2)[:, None], 0.0)
        return bands

    def _stripes(self, bands: Tensor, axis: int) -> Tensor:
        """Return for each row which places of the axis are hidden. Shapes: [batch, size of the axis]."""
        places = torch.arange(bands.shape[axis], device=bands.device)
        first = torch.randint(bands.shape[axis], (len(bands), 1), device=bands.device)
        width = torch.randint(self.widest + 1, (len(bands), 1), device=bands.device)
        return (places >= first) & (places < first + width)
