"""The denoisers' network: frames of a noisy signal in, the same frames without the noise out.

The signal's baseline, a weighted mean of the samples around each, is taken off. A stacked LSTM reads each frame with
the samples that its baseline reaches, and the noise that it finds is subtracted. In both directions it sees the whole
row. In one direction what it must know of the past is state: the frames within reach, how many they are, and the
LSTM's own. It knows neither data nor training.

Invariants: k frames in one run equal k runs of one frame, in one direction; x + b in, the same out for any b (up to
float32); what stands beyond a row's length, and which rows share the batch, changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.contract.tensors import State
from training.networks.recurrent import Recurrent

AROUND = 360  # samples that the baseline reaches before and after each
BEFORE = 720  # in one direction: before each, and none after
UNIT = 0.5  # millivolts: about an ordinary deviation, noise and all


class Baseline(nn.Module):
    """Average the samples around each, weighted by a Hann window, or before each, by the falling half of a longer one.

    Where the signal begins or ends within the window, what there is of it counts.
    """

    kernel: Tensor

    def __init__(self, reach: int, both_sides: bool) -> None:
        super().__init__()
        self.after = reach if both_sides else 0
        window = torch.hann_window(2 * reach + 1, periodic=False)
        self.register_buffer("kernel", window[: reach + 1 + self.after].expand(2, 1, -1), persistent=False)

    def forward(self, joined: Tensor, known: Tensor) -> Tensor:
        """Average around every sample but the first `reach`.

        Shapes: frames joined [batch, frames, frame], zero where known [batch, frames] says that there is none; returns
        [batch, frames after the reach, frame].
        """
        pair = torch.stack([joined, known[..., None].expand_as(joined).float()], 1)
        lines = functional.pad(pair.flatten(2), (0, self.after))
        with torch.autocast(joined.device.type, enabled=False):  # rounded to bfloat16 it would be noise itself
            total, weight = functional.conv1d(lines, self.kernel, groups=2).chunk(2, 1)
        return (total / weight.clamp(min=1e-6)).reshape(joined.shape[0], -1, joined.shape[2])


class DenoiseNetwork(nn.Module):
    """Subtract the noise that a stacked LSTM finds in frames of a signal."""

    def __init__(self, frame: int, features: int, hidden: int, layers: int, bidirectional: bool) -> None:
        """`frame` samples a step, of which the reach is a multiple; `bidirectional` for whole signals."""
        super().__init__()
        reach = AROUND if bidirectional else BEFORE
        self.frame, self.bidirectional, self.before = frame, bidirectional, reach // frame
        self.after = self.before if bidirectional else 0
        self.baseline = Baseline(reach, bidirectional)
        self.inward = nn.Linear((self.before + 1 + self.after) * frame, features)
        self.recurrent = Recurrent("lstm", features, hidden, layers, bidirectional)
        self.outward = nn.Linear(hidden * self.recurrent.directions + features, features)
        self.head = nn.Linear(features + frame, frame)
        nn.init.zeros_(self.head.weight)  # training begins with the signal less its baseline
        nn.init.zeros_(self.head.bias)

    @property
    def states(self) -> tuple[State, ...]:
        """The states in the order of `forward`, as the manifest declares them; none in both directions."""
        if self.bidirectional:
            return ()
        earlier = State(
            input="earlier", output="earlier_out", dtype="float32", shape=("batch", self.before, self.frame)
        )
        count = State(input="count", output="count_out", dtype="float32", shape=("batch", 1))
        return earlier, count, *self.recurrent.states

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return what a signal begins with: no frames before it, how many those are, and the LSTM's zeros."""
        like = self.head.weight
        earlier = like.new_zeros(batch, self.before, self.frame)
        return earlier, like.new_zeros(batch, 1), *self.recurrent.zero_states(batch)

    def forward(self, signal: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the signal without its noise and baseline, then, in one direction, the states.

        Shapes: signal [batch, time, frame] float32; lengths [batch] int32; states as `zero_states` gives them, or none
        for those of new signals; returns as signal and states.
        Units: millivolts.
        """
        earlier, count, *carried = states or self.zero_states(signal.shape[0])
        time = torch.arange(signal.shape[1], device=signal.device)
        place = torch.arange(self.before, device=signal.device)
        known = torch.cat([place >= self.before - count, time < lengths[:, None]], 1)
        joined = torch.where(known[..., None], torch.cat([earlier, signal], 1), 0.0)
        baseline = self.baseline(joined, known)
        centred = (joined[:, self.before :] - baseline) / UNIT
        read = functional.gelu(self.inward(self._around(joined, known, baseline) / UNIT))
        remembered, left = self.recurrent(read, lengths, tuple(carried))
        found = functional.gelu(self.outward(torch.cat([remembered, read], 2)))
        answer = UNIT * (centred - self.head(torch.cat([found, centred], 2)).float())
        if self.bidirectional:
            return (answer,)
        kept = (lengths.long()[:, None] + place)[..., None].expand(-1, -1, self.frame)
        return answer, joined.gather(1, kept), (count + lengths[:, None]).clamp(max=self.before), *left

    def _around(self, joined: Tensor, known: Tensor, baseline: Tensor) -> Tensor:
        """Return each frame with those within reach, all less its own mean baseline, zero where there is none.

        Shapes: as `Baseline.forward`; returns [batch, time, samples].
        """
        padded, there = functional.pad(joined, (0, 0, 0, self.after)), functional.pad(known.float(), (0, self.after))
        steps = baseline.shape[1]
        level = baseline.mean(2, keepdim=True)
        places = range(self.before + 1 + self.after)
        return torch.cat([padded[:, i : i + steps] - there[:, i : i + steps, None] * level for i in places], 2)
