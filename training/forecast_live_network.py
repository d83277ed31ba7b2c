"""The live forecaster's network: one observation a step in, quantiles of the next one out, everything else is state.

State is the window of latest observations, how many there were, running means of the absolute step over several spans
(a fixed diagonal ReLU recurrence), and the stacked LSTM's own. It knows neither data nor training.

Invariants: k steps in one run equal k runs of one step; a*x in, a*y out for a > 0 (up to float32), and from the second
observation on x + b in, y + b out; quantiles never cross; what stands beyond a row's length changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.tensors import Shape, State
from training.forecast_metrics import LEVELS
from training.forecast_network import FLOAT_STEP, SMALLEST_SCALE, rising
from training.recurrent import Recurrent

WINDOW = 32  # lags that the network sees directly: more than a day of hours
SPANS = (16.0, 256.0)  # observations over which the running scales forget; the longest is the unit of the answer
AGE_CAP = 512  # observations after which a session no longer counts as young


def running_means() -> Recurrent:
    """Build the fixed recurrence h = (1 - 1/span) h + 1/span x, one unit for each of `SPANS`, twice.

    A ReLU recurrence with diagonal weights is that moving average for inputs that are never negative. The second half
    averages ones, which tells how much of the average is still the zero it started from.
    """
    gain = torch.tensor([1 / span for span in SPANS] * 2)
    recurrent = Recurrent("rnn", len(gain), len(gain), nonlinearity="relu")
    fixed = {"weight_ih_l0": gain.diag(), "weight_hh_l0": (1 - gain).diag()}
    for name, weight in recurrent.layers[0].named_parameters():
        weight.requires_grad_(False).copy_(fixed.get(name, torch.zeros_like(weight)))
    return recurrent


class LiveNetwork(nn.Module):
    """Predict the next observation of a stream."""

    def __init__(self, hidden: int = 96, layers: int = 2) -> None:
        super().__init__()
        features = WINDOW + 3
        self.running = running_means()
        self.recurrent = Recurrent("lstm", features, hidden, layers=layers)
        self.head = nn.Linear(hidden + features, len(LEVELS))

    @property
    def states(self) -> tuple[State, ...]:
        """The states in the order of `forward`, as the manifest declares them."""
        (means,) = self.running.states
        shapes: dict[str, Shape] = {"window": ("batch", WINDOW), "count": ("batch", 1), "running": means.shape}
        declared = (State(input=n, output=f"{n}_out", dtype="float32", shape=shape) for n, shape in shapes.items())
        return *declared, *self.recurrent.states

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions: window, count, running means, then h and c of each layer."""
        like = self.head.weight
        own = like.new_zeros(batch, WINDOW), like.new_zeros(batch, 1)
        return *own, *self.running.zero_states(batch), *self.recurrent.zero_states(batch)

    def forward(self, values: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Predict after every observation; return the quantiles, then the states.

        Shapes: values [batch, time] float32; lengths [batch] int32; states and returned states as `zero_states` gives
        them; returned quantiles [batch, time, 13].
        Units: those of the values.
        """
        window, count, running, *lstm = states
        steps, seen, age, kept = self._look_back(values, lengths, window, count)
        scale, ratio, running = self._scale(values, lengths, steps[..., 0], seen[..., 0], running)
        shape = torch.asinh(steps / scale[..., None])
        features = torch.cat([shape, ratio[..., None], seen[..., :1], age[..., None]], 2)
        read, left = self.recurrent(features, lengths, tuple(lstm))
        quantiles = rising(self.head(torch.cat([read, features], 2)))
        count = count + lengths[:, None].float()
        return values[..., None] + scale[..., None] * quantiles, kept, count, running, *left

    def _look_back(
        self, values: Tensor, lengths: Tensor, window: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Give each observation its differences to the `WINDOW` before it, where they exist, and its session's age.

        Shapes: returns differences and their existence [batch, time, WINDOW], age [batch, time], and the window to keep
        [batch, WINDOW].
        """
        time = torch.arange(values.shape[1], device=values.device)
        lag = torch.arange(1, WINDOW + 1, device=values.device)
        joined = torch.cat([window, values], 1)
        number = count + 1 + time
        seen = (number[..., None] > lag).float()
        steps = (values[..., None] - joined[:, WINDOW + time[:, None] - lag]) * seen
        age = torch.log1p(number.clamp(max=AGE_CAP)) / 6  # about 1 for an old session
        kept = joined.gather(1, lengths.long()[:, None] + lag - 1)
        return steps, seen, age, kept

    def _scale(
        self, values: Tensor, lengths: Tensor, step: Tensor, moved: Tensor, running: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring the running means up to each observation.

        Before the first step the scale is the observation's own size, or one for a zero.

        Shapes: values, step, and moved (1 where the step exists) [batch, time]; returns the scale and the log of the
        short span's mean over the long one's [batch, time], and the state.
        """
        size = step.abs()
        means, (running,) = self.running(torch.stack([size, size, moved, moved], 2), lengths, (running,))
        short, long = (means[..., :2] / means[..., 2:].clamp(min=1e-6)).unbind(2)
        magnitude = values.abs()
        floor = (magnitude * FLOAT_STEP).clamp(min=SMALLEST_SCALE)
        first = torch.where(magnitude > 0, magnitude, torch.ones_like(magnitude))
        scale = torch.where(moved > 0, torch.maximum(long, floor), first)
        return scale, torch.log(short / scale + 0.01), running
