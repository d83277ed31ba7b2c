"""The live forecaster's network: one observation a step in, quantiles of the next one out, everything else is state.

Beside the quantiles stands how far out the observation itself lies in what was predicted for it: its anomaly score.
State is the window of latest observations, how many there were, what is predicted for the next one, running means of
the absolute step over several spans (a fixed diagonal ReLU recurrence), and the stacked LSTM's own. It knows neither
data nor training.

Invariants: k steps in one run equal k runs of one step; a*x in, a*y out for a > 0 (up to float32), and from the second
observation on x + b in, y + b out, and in both cases the same anomaly scores; quantiles never cross; what stands beyond
a row's length changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.tensors import Shape, State
from training.conformal import apply_offsets
from training.forecast_metrics import LEVELS, MEDIAN
from training.forecast_network import FLOAT_STEP, SMALLEST_SCALE, rising
from training.recurrent import Recurrent

WINDOW = 32  # lags that the network sees directly: more than a day of hours
SPANS = (16.0, 256.0)  # observations over which the running scales forget; the longest is the unit of the answer
AGE_CAP = 512  # observations after which a session no longer counts as young
EXPECTED = (0, MEDIAN, len(LEVELS) - 1)  # the levels that the score needs: the median, and the bounds of 95 %
# The largest score: ten times as far from the median as the bound. Beyond it the ratio says little, and the float32
# rounding of a large ratio would hide real differences from the parity suite.
ANOMALY_CAP = 10.0


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
        shapes: dict[str, Shape] = {
            "window": ("batch", WINDOW),
            "count": ("batch", 1),
            "expected": ("batch", len(EXPECTED)),
            "running": means.shape,
        }
        declared = (State(input=n, output=f"{n}_out", dtype="float32", shape=shape) for n, shape in shapes.items())
        return *declared, *self.recurrent.states

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions: window, count, expected, running means, then h and c of each layer."""
        like = self.head.weight
        own = like.new_zeros(batch, WINDOW), like.new_zeros(batch, 1), like.new_zeros(batch, len(EXPECTED))
        return *own, *self.running.zero_states(batch), *self.recurrent.zero_states(batch)

    def forward(self, values: Tensor, lengths: Tensor, offsets: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Predict after every observation and judge each by what was predicted; return both, then the states.

        Shapes: values [batch, time] float32; lengths [batch] int32; offsets [13], as `conformal.apply_offsets` takes
        them; states and returned states as `zero_states` gives them; returned quantiles [batch, time, 13] and anomaly
        [batch, time].
        Units: quantiles those of the values; anomaly in distances from the median to the bound of the central 95 %.
        """
        window, count, expected, *recurrent = states
        number = count + 1 + torch.arange(values.shape[1], device=values.device)
        steps, away, (window, count, *recurrent) = self.predict(values, lengths, window, count, *recurrent)
        away = apply_offsets(away, offsets, LEVELS)
        known = torch.cat([expected[:, None], away[..., EXPECTED]], 1)
        last = lengths.long()[:, None, None].expand(-1, -1, len(EXPECTED))
        judged = anomaly(steps, known[:, :-1], number)
        return values[..., None] + away, judged, window, count, known.gather(1, last).squeeze(1), *recurrent

    def predict(
        self, values: Tensor, lengths: Tensor, window: Tensor, count: Tensor, running: Tensor, *lstm: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Predict after every observation, as learned.

        Shapes: as `forward`; returns each observation's step from the one before it [batch, time], how far the
        quantiles of the next one lie from it [batch, time, 13], and the states that came in.
        Units: those of the values.
        """
        steps, seen, age, kept = self._look_back(values, lengths, window, count)
        scale, ratio, running = self._scale(values, lengths, steps[..., 0], seen[..., 0], running)
        shape = torch.asinh(steps / scale[..., None])
        features = torch.cat([shape, ratio[..., None], seen[..., :1], age[..., None]], 2)
        read, left = self.recurrent(features, lengths, lstm)
        quantiles = rising(self.head(torch.cat([read, features], 2)).float())
        count = count + lengths[:, None].float()
        return steps[..., 0], scale[..., None] * quantiles, (kept, count, running, *left)

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
        with torch.autocast(values.device.type, enabled=False):  # a bfloat16 mean over 256 steps never moves
            means, (running,) = self.running(torch.stack([size, size, moved, moved], 2), lengths, (running,))
        short, long = (means[..., :2] / means[..., 2:].clamp(min=1e-6)).unbind(2)
        magnitude = values.abs()
        floor = (magnitude * FLOAT_STEP).clamp(min=SMALLEST_SCALE)
        first = torch.where(magnitude > 0, magnitude, torch.ones_like(magnitude))
        scale = torch.where(moved > 0, torch.maximum(long, floor), first)
        return scale, torch.log(short / scale + 0.01), running


def anomaly(step: Tensor, expected: Tensor, number: Tensor) -> Tensor:
    """Score how far out observations lie: 0 at the predicted median, 1 at the bound of the central 95 %.

    The distance from the median is measured in the distance of the bound on the same side. The first two observations
    of a session score 0: for the first nothing was predicted, for the second from no more than one value's size.

    Shapes: step and number, counted from 1, [batch, time]; expected lower bound, median and upper bound
    [batch, time, 3]; returns [batch, time], at most `ANOMALY_CAP`.
    Units: step and expected those of the values, both from the observation before.
    """
    lower, median, upper = expected.unbind(-1)
    distance = torch.where(step > median, upper - median, median - lower).clamp(min=SMALLEST_SCALE)
    score = ((step - median).abs() / distance).clamp(max=ANOMALY_CAP)
    return score * (number > 2)
