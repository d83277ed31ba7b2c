"""The live forecaster's network: one observation a step in, quantiles of the next one out, everything else is state.

It also gives each observation an anomaly score, how far out it lies in what was predicted for it, and the likelihood
that people would mark it as anomalous. The state is the window of latest observations, how many there were, the
prediction for the next observation, what the likelihood remembers, running means of the absolute step over several
spans, and the states of the stacked LSTM. Observations are float64; their differences are float32. It knows neither
data nor training.

Invariants: k steps in one run equal k runs of one step; a*x in, a*y out for a > 0 (up to float32), and from the second
observation on x + b in, y + b out (up to float64), and in both cases the same anomaly scores and likelihoods; one
observation, however far out, moves the scale by a bounded factor; quantiles never cross; what stands beyond a row's
length changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.contract.tensors import LARGEST_FLOAT, Dtype, Shape, State
from training.networks.recurrent import Recurrent
from training.series.conformal import apply_offsets
from training.series.quantiles import LEVELS, MEDIAN, rising
from training.series.rounding import DOUBLE_STEP, SMALLEST_SCALE
from training.tasks.forecast_live.likelihood import REMEMBERED, likelihood

WINDOW = 32  # lags that the network sees directly: more than a day of hours
SPANS = (16.0, 256.0)  # observations over which the running scales forget; the longest is the unit of the answer
# A step counts for at most this many running means, so that it moves the answer's unit by at most about a quarter.
MAX_MEANS = SPANS[-1] / 4
SETTLED = 3  # observations before the running means begin: a glitch among them never enters
MAX_LEVEL = 1e30  # what counts of a value's size; a float32 it must be, and so must its multiples
MAX_SCALES = 1e3  # scales beyond which the network does not tell one difference from another
AGE_CAP = 512  # observations after which a session no longer counts as young
EXPECTED = (0, MEDIAN, len(LEVELS) - 1)  # the levels that the score needs: the median, and the bounds of 95 %
# The largest score: ten times as far from the median as the bound. Beyond it the ratio says little, and the float32
# rounding of a large ratio would hide real differences from the parity suite.
ANOMALY_CAP = 10.0


class RunningMeans(nn.Module):
    """Average the sizes of steps exponentially over each of `SPANS`, none counted for more than it can be trusted.

    A step counts for at most `MAX_MEANS` times the longest mean before it plus what is usual of late, so that one
    glitch hardly moves a mean of any span, and steps that stay large are believed as soon as they are usual.

    Two fixed ReLU recurrences do it. `limits` follows that limit: with b = MAX_MEANS * mean + usual, and min(x, b) =
    b - relu(b - x), a mean is the difference of two units, which no x is too large for. `means` averages the steps so
    limited, and ones beside them, which tell how much of a mean is still the zero it began with. It is apart as the
    difference would leave it ten times the rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        gain = 1 / SPANS[-1]
        with_limit, taken_off, _ = torch.eye(3)  # the third unit is the limit itself, over `MAX_MEANS`
        mean = with_limit - taken_off
        size, usual = torch.eye(2)
        most = gain * MAX_MEANS
        self.limits = _fixed(
            torch.stack([gain * usual, gain * (usual - size), usual / MAX_MEANS]),
            torch.stack([(1 - gain + most) * mean, most * mean, mean]),
        )
        gains = torch.tensor([1 / span for span in SPANS] * 2)
        self.means = _fixed(gains.diag(), (1 - gains).diag())

    def forward(
        self, size: Tensor, usual: Tensor, counts: Tensor, lengths: Tensor, limit: Tensor, running: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Bring the means up to each observation.

        Shapes: size, usual, counts (1 where the step counts) [batch, time]; returns [batch, time, spans] and the
        states.
        Units: those of the sizes.
        """
        count = len(SPANS)
        with torch.autocast(size.device.type, enabled=False):  # a bfloat16 mean over 256 steps never moves
            read = torch.stack([size, usual], 2) * counts[..., None]
            limits, (limit,) = self.limits(read, lengths, (limit,))
            limited = torch.minimum(read[..., 0], MAX_MEANS * limits[..., 2])
            means, (running,) = self.means(torch.stack([limited] * count + [counts] * count, 2), lengths, (running,))
        return means[..., :count] / means[..., count:].clamp(min=1e-6), (limit, running)


def _fixed(read: Tensor, kept: Tensor) -> Recurrent:
    """Build the recurrence h = relu(read x + kept h), which is not trained."""
    recurrent = Recurrent("rnn", read.shape[1], len(kept), nonlinearity="relu")
    fixed = {"weight_ih_l0": read, "weight_hh_l0": kept}
    for name, weight in recurrent.layers[0].named_parameters():
        weight.requires_grad_(False).copy_(fixed.get(name, torch.zeros_like(weight)))
    return recurrent


class LiveNetwork(nn.Module):
    """Predict the next observation of a stream."""

    def __init__(self, hidden: int = 96, layers: int = 2) -> None:
        super().__init__()
        features = WINDOW + 3
        self.running = RunningMeans()
        self.recurrent = Recurrent("lstm", features, hidden, layers=layers)
        self.head = nn.Linear(hidden + features, len(LEVELS))

    @property
    def states(self) -> tuple[State, ...]:
        """The states in the order of `forward`, as the manifest declares them."""
        (limit,), (means,) = self.running.limits.states, self.running.means.states
        tensors: dict[str, tuple[Dtype, Shape]] = {
            "window": ("float64", ("batch", WINDOW)),
            "count": ("float32", ("batch", 1)),
            "expected": ("float32", ("batch", len(EXPECTED))),
            "remembered": ("float64", ("batch", REMEMBERED)),
            "limit": ("float32", limit.shape),
            "running": ("float32", means.shape),
        }
        declared = (State(input=n, output=f"{n}_out", dtype=d, shape=shape) for n, (d, shape) in tensors.items())
        return *declared, *self.recurrent.states

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions: window, count, expected, remembered, limit, running means, then each
        layer's h, c."""
        like = self.head.weight
        window, remembered = (like.new_zeros(batch, size, dtype=torch.float64) for size in (WINDOW, REMEMBERED))
        own = window, like.new_zeros(batch, 1), like.new_zeros(batch, len(EXPECTED)), remembered
        stacks = self.running.limits, self.running.means, self.recurrent
        return *own, *(state for stack in stacks for state in stack.zero_states(batch))

    def forward(self, values: Tensor, lengths: Tensor, offsets: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Predict after every observation and judge each by what was predicted; return all three, then the states.

        Shapes: values [batch, time] float64; lengths [batch] int32; offsets [13], as `conformal.apply_offsets` takes
        them; states and returned states as `zero_states` gives them; returned quantiles [batch, time, 13] float64,
        anomaly and likelihood [batch, time] float32.
        Units: quantiles those of the values; anomaly in distances from the median to the bound of the central 95 %.
        """
        window, count, expected, remembered, *recurrent = states
        number = count + 1 + torch.arange(values.shape[1], device=values.device)
        steps, away, (window, count, *recurrent) = self.predict(values, lengths, window, count, *recurrent)
        away = apply_offsets(away, offsets, LEVELS)
        known = torch.cat([expected[:, None], away[..., EXPECTED]], 1)
        last = lengths.long()[:, None, None].expand(-1, -1, len(EXPECTED))
        judged = anomaly(steps, known[:, :-1], number)
        lower, median, upper = known[:, :-1].unbind(-1)
        error = torch.minimum((steps - median).abs(), ANOMALY_CAP * (upper - lower))
        likely, remembered = likelihood(values, error, number, lengths, remembered)
        own = window, count, known.gather(1, last).squeeze(1), remembered
        return values[..., None] + away.double(), judged, likely, *own, *recurrent

    def predict(
        self,
        values: Tensor,
        lengths: Tensor,
        window: Tensor,
        count: Tensor,
        limit: Tensor,
        running: Tensor,
        *lstm: Tensor,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Predict after every observation, as learned.

        Shapes: as `forward`; returns each observation's step from the one before it [batch, time], how far the
        quantiles of the next one lie from it [batch, time, 13], and the states that came in.
        Units: those of the values.
        """
        time = torch.arange(values.shape[1], device=values.device)
        lag = torch.arange(1, WINDOW + 1, device=values.device)
        number = count + 1 + time
        joined = torch.cat([window, values.double()], 1)
        steps, usual = look_back(values, joined[:, WINDOW + time[:, None] - lag], number[..., None] > lag)
        scale, ratio, kept_means = self._scale(values, lengths, steps[..., 0], usual, number, limit, running)
        shape = torch.asinh((steps / scale[..., None]).clamp(-MAX_SCALES, MAX_SCALES))
        age = torch.log1p(number.clamp(max=AGE_CAP)) / 6  # about 1 for an old session
        features = torch.cat([shape, ratio[..., None], (number > 1)[..., None].float(), age[..., None]], 2)
        read, left = self.recurrent(features, lengths, lstm)
        quantiles = rising(self.head(torch.cat([read, features], 2)).float())
        kept = joined.gather(1, lengths.long()[:, None] + lag - 1)
        count = count + lengths[:, None].float()
        return steps[..., 0], scale[..., None] * quantiles, (kept, count, *kept_means, *left)

    def _scale(
        self, values: Tensor, lengths: Tensor, step: Tensor, usual: Tensor, number: Tensor, *running: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Bring the running means up to each observation.

        Before the first step the scale is the observation's own size, or one for a zero; until the means begin it is
        the usual step.

        Shapes: values, step, usual and number [batch, time]; returns the scale and the log of the short span's mean
        over it [batch, time], and the states.
        """
        begun = number > SETTLED
        means, states = self.running(step.abs(), usual, begun.float(), lengths, *running)
        short, long = means.unbind(2)
        magnitude = values.abs().clamp(max=MAX_LEVEL)
        floor = (magnitude * DOUBLE_STEP).float().clamp(min=SMALLEST_SCALE)
        first = torch.where(magnitude > 0, magnitude, 1.0).float()
        scale = torch.where(number > 1, torch.maximum(torch.where(begun, long, usual), floor), first)
        return scale, torch.log(short / scale + 0.01), states


def look_back(values: Tensor, earlier: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return each observation's differences to those before it, and the step that is usual among them.

    The usual one is the lower quartile of the steps that moved: of a window in which few did, or which holds a glitch,
    it is still an ordinary step.

    Shapes: values [batch, time]; earlier, the observations before it from the latest on, and seen, whether they exist
    [batch, time, WINDOW]; returns [batch, time, WINDOW] and [batch, time], both zero where there is nothing, float32.
    """
    latest = values[..., None].double()
    sizes = narrowed(torch.cat([latest, earlier[..., :-1]], 2) - earlier).abs()
    moved = seen & (sizes > 0)
    ordered = torch.where(moved, sizes, torch.inf).sort(2).values
    place = (moved.sum(2, keepdim=True) - 1).clamp(min=0) // 4
    usual = torch.where(moved.any(2), ordered.gather(2, place).squeeze(2), 0.0)
    return narrowed(torch.where(seen, latest - earlier, 0.0)), usual


def narrowed(differences: Tensor) -> Tensor:
    """Return float64 differences as float32, what that cannot hold as the largest that it can."""
    return differences.clamp(-LARGEST_FLOAT["float32"], LARGEST_FLOAT["float32"]).float()


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
