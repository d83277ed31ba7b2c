"""The digit networks: log-mel bands, convolutions, an LSTM over the frames, and how likely each digit is.

`DigitNetwork` reads a recording whole and in both directions, `LiveDigitNetwork` answers after each frame. They know
frames of samples, not data or training.

Invariants: what stands beyond a row's length, and which rows share the batch, changes nothing; of the live network, k
frames in one run equal k runs of one frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.contract.tensors import State
from training.networks.recurrent import Recurrent
from training.tasks.digits.features import BANDS, BEFORE, FRAME, LogMel
from training.tasks.digits.voices import Disguise

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CONTEXT = 4  # frames of bands before its own that a feature sees
REACH = BEFORE + CONTEXT  # frames of samples before its own that a feature sees
KERNELS, STRIDE = (7, 5), 2  # of the convolutions along the bands
FORGET_BIAS = 1.5  # an LSTM that keeps what it heard learns sooner to answer at the end


class Features(nn.Module):
    """Find patterns of a few frames and neighbouring bands, wherever in the bands they stand."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        first, second = KERNELS
        self.patterns = nn.Sequential(
            nn.Conv2d(1, channels, (CONTEXT + 1, first), (1, STRIDE), (0, first // 2)),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, (1, second), (1, STRIDE), (0, second // 2)),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
        )
        self.joined = nn.Sequential(nn.Linear(2 * channels * BANDS // STRIDE**2, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, bands: Tensor) -> Tensor:
        """Shapes: bands [batch, CONTEXT + time, BANDS]; returns [batch, time, width], none below zero."""
        found: Tensor = self.joined(self.patterns(bands[:, None]).transpose(1, 2).flatten(2))
        return found


class DigitNetwork(nn.Module):
    """Say which digit a recording holds, after hearing all of it.

    Each band is heard relative to its mean over the recording: neither loudness nor a microphone's colour counts.
    """

    def __init__(self, channels: int, hidden: int, layers: int, dropout: float, disguise: Disguise) -> None:
        """`dropout` acts on the features, between the layers and before the head; `disguise` in training alone."""
        super().__init__()
        self.log_mel, self.disguise = LogMel(), disguise
        self.features = Features(channels, hidden, dropout)
        self.recurrent = _lstm(hidden, layers, dropout, bidirectional=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4 * hidden, len(DIGITS))

    def logits(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Shapes: frames [batch, time, FRAME]; lengths [batch] int32; returns [batch, digits]."""
        own = (torch.arange(frames.shape[1], device=frames.device) < lengths[:, None])[..., None]
        bands = self.log_mel(functional.pad(frames, (0, 0, REACH, 0)))
        mean = (bands[:, CONTEXT:] * own).sum(1, keepdim=True) / lengths[:, None, None]
        found = functional.pad(self.features(self.disguise(bands - mean)) * own, (0, 0, 0, 1))
        pairs, halves = torch.maximum(found[:, :-1:2], found[:, 1::2]), (lengths + 1) // 2
        read, _ = self.recurrent(pairs, halves)
        heard = (torch.arange(read.shape[1], device=read.device) < halves[:, None])[..., None]
        loudest = read.masked_fill(~heard, -torch.inf).amax(1)
        pooled = torch.cat([read.sum(1) / halves[:, None], loudest], 1)  # outputs beyond the length are zero
        voted: Tensor = self.head(self.dropout(pooled))
        return voted

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return probabilities. Shapes: as `logits`."""
        return self.logits(frames, lengths).softmax(-1)


class LiveDigitNetwork(nn.Module):
    """Say after every frame which digit the sound so far holds; the last frames and the LSTM's states are carried."""

    def __init__(self, channels: int, hidden: int, layers: int, dropout: float, disguise: Disguise) -> None:
        """Take what `DigitNetwork` takes."""
        super().__init__()
        self.log_mel, self.disguise = LogMel(), disguise
        self.features = Features(channels, hidden, dropout)
        self.recurrent = _lstm(hidden, layers, dropout, bidirectional=False)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, len(DIGITS))

    @property
    def states(self) -> tuple[State, ...]:
        """The states in the order of `forward`, as the manifest declares them."""
        window = State(input="window", output="window_out", dtype="float32", shape=("batch", REACH, FRAME))
        return window, *self.recurrent.states

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions: silence, then each layer's h, c."""
        return self.head.weight.new_zeros(batch, REACH, FRAME), *self.recurrent.zero_states(batch)

    def logits(
        self, frames: Tensor, lengths: Tensor, window: Tensor, *states: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Score the digits after every frame.

        Shapes: frames [batch, time, FRAME]; lengths [batch] int32; states as `zero_states`; returns
        [batch, time, digits] and the states.
        """
        joined = torch.cat([window, frames], 1)
        read, carried = self.recurrent(self.features(self.disguise(self.log_mel(joined))), lengths, states)
        last = FRAME * lengths.long()[:, None] + torch.arange(REACH * FRAME, device=frames.device)
        kept = joined.flatten(1).gather(1, last).view(window.shape)
        return self.head(self.dropout(read)), (kept, *carried)

    def forward(self, frames: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities after each frame, then the states. Shapes: as `logits`."""
        scores, carried = self.logits(frames, lengths, *states)
        return scores.softmax(-1), *carried


def _lstm(width: int, layers: int, dropout: float, *, bidirectional: bool) -> Recurrent:
    recurrent = Recurrent("lstm", width, width, layers=layers, bidirectional=bidirectional, dropout=dropout)
    for name, bias in recurrent.named_parameters():
        if "bias_ih" in name:
            nn.init.constant_(bias[width : 2 * width], FORGET_BIAS)
    return recurrent
