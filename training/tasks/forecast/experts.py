"""Experts: ways a history could go on if it repeated itself, chosen by attention over lags.

Each head weighs the lags of `lags` by how well they foresaw the history so far, and goes on as they would:
by copies with and without drift, or by regressions. It knows lags and weights, not quantiles.

Invariant: the paths are exact continuations, in float32 whatever the precision around them; a history that repeats
itself without noise is repeated without noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.tasks.forecast.lags import GROWING, LAGS, SMALLEST_VARIANCE, Comparison, compare, latest, periods

COPIES, GROWERS = 4, 2  # heads
# How heads weigh lags before training: by which power of the error, and by how much more for lags that foresaw better
# than their neighbours did. Lag 1 foresees a smooth series best, however plain its season: seasonal heads look
# past it, and average over a season's multiples where the power is low.
SHARPNESS = (8.0, 4.0, 2.0, 1.0, 4.0, 3.0)
SEASONAL = (0.0, 8.0, 8.0, 12.0, 0.0, 8.0)
NO_SEASON = -3.0  # stands for lag 1, which has a neighbour on one side only
CHANNELS = 16
SMALLEST_SLOPE = 1e-3  # of a regression that is continued: its logarithm must exist


class Experts(nn.Module):
    """Attend over lags; return each expert's path over the horizon."""

    back: Tensor
    place: Tensor

    def __init__(self, state: int, segment: int, horizon: int) -> None:
        """Read sharpness from a recurrent output of `state` values, one a segment; go on for `horizon` steps."""
        super().__init__()
        self.segment, self.horizon = segment, horizon
        self.count = 1 + 2 * COPIES + GROWERS  # the last value; copies without and with drift; regressions
        self.features = (self.count - 1) * horizon + COPIES + GROWERS
        self.notice = nn.Conv1d(9, CHANNELS, 5, padding=2)
        self.judge = nn.Conv1d(CHANNELS, COPIES + GROWERS, 1)
        self.sharpen = nn.Linear(state, COPIES + GROWERS)
        nn.init.zeros_(self.sharpen.weight)
        self.sharpen.bias.data = torch.tensor(SHARPNESS)
        self.seasonal = nn.Parameter(torch.tensor(SEASONAL))
        back, place = periods(horizon)
        self.register_buffer("back", back.float(), persistent=False)
        self.register_buffer("place", place, persistent=False)

    def forward(
        self, series: Tensor, first: Tensor, segments: Tensor, anchors: Tensor, unit: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go on from each anchor.

        Shapes: series [batch, time], first and segments [batch] as `compare` takes them; anchors and unit
        [batch, anchors], the series' unit in the anchor's; read [batch, anchors, state]; returns paths
        [batch, anchors, horizon, experts], what a step is off at best [batch, anchors], and features
        [batch, anchors, features].
        Units: the anchor's scales above its last value.
        """
        with torch.autocast(series.device.type, enabled=False):
            return self._go_on(series, first, segments, anchors, unit, read.float())

    def _go_on(
        self, series: Tensor, first: Tensor, segments: Tensor, anchors: Tensor, unit: Tensor, read: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            found = compare(series, first, anchors, segments, self.segment, self.horizon)
            tail = latest(series, anchors, max(LAGS), self.segment)
            scale = unit[..., None].square()
            errors = [
                torch.log(error * scale + SMALLEST_VARIANCE)
                for error in (found.drift_error, found.recent_error, found.slope_error)
            ]
            copies, growths = self._continue(found, tail)
        weights = self._weigh(found, errors, read)
        copying, growing = weights[:, :, :COPIES], weights[:, :, COPIES:, :GROWING]
        plain = copying @ copies
        drift = (copying * found.drift[:, :, None]) @ self.back
        paths = torch.cat([plain, plain + drift, growing @ growths], 2)
        paths = (paths - tail[..., None, -1:]) * unit[..., None, None]
        doubt = (weights * self._by_head(errors)).sum(-1)
        spread = torch.exp(0.5 * torch.minimum(doubt.amin(-1), (weights[:, :, 0] * errors[1]).sum(-1)))
        features = torch.cat([torch.asinh(paths).flatten(2), doubt / 4], 2)
        paths = functional.pad(paths, (0, 0, 1, 0))  # the last value stays
        return paths.transpose(2, 3), spread, features

    def _by_head(self, errors: list[Tensor]) -> Tensor:
        """Give each head the error of its own predictor. Shapes: returns [batch, anchors, heads, lags]."""
        copying, growing = errors[0][:, :, None], errors[2][:, :, None]
        return torch.cat([copying.expand(-1, -1, COPIES, -1), growing.expand(-1, -1, GROWERS, -1)], 2)

    def _weigh(self, found: Comparison, errors: list[Tensor], read: Tensor) -> Tensor:
        """Return each head's weights over the lags. Shapes: [batch, anchors, heads, lags]."""
        lags = torch.tensor(LAGS, device=read.device)
        pairs, length = found.pairs, torch.log(lags.float())
        usable = (pairs >= torch.maximum(lags / 2, lags.new_tensor(3))) | (lags == 1)
        prominence = _prominence(errors[0])
        seen = [
            prominence / 4,
            *(error / 4 for error in errors),
            (errors[0] - errors[1]) / 4,
            (errors[0] - errors[0].masked_fill(~usable, torch.inf).amin(-1, keepdim=True)) / 4,
            (length / 4).expand_as(pairs),
            torch.log1p(pairs) / 4,
            usable.float(),
        ]
        noticed = functional.relu(self.notice(torch.stack(seen, 2).flatten(0, 1)))
        judged = self.judge(noticed).unflatten(0, pairs.shape[:2])
        sharpness = functional.softplus(self.sharpen(read))
        logits = judged - sharpness[..., None] * self._by_head(errors)
        logits = logits + self.seasonal[:, None] * prominence[:, :, None]
        heads = torch.arange(COPIES + GROWERS, device=read.device)[:, None]
        allowed = usable[:, :, None] & ((heads < COPIES) | (torch.arange(len(LAGS), device=read.device) < GROWING))
        return functional.softmax(logits.masked_fill(~allowed, -1e9), -1)

    def _continue(self, found: Comparison, tail: Tensor) -> tuple[Tensor, Tensor]:
        """Go on by each lag: by a copy of what was, and by the regression through it.

        Shapes: tail [batch, anchors, longest lag]; returns [batch, anchors, lags or `GROWING`, horizon] each.
        """
        batch, anchors, longest = tail.shape
        copies = tail.reshape(-1, longest).index_select(1, self.place.flatten())
        copies = copies.view(batch, anchors, *self.place.shape)
        slope, intercept = found.slope[:, :, :GROWING, None], found.intercept[:, :, :GROWING, None]
        back = self.back[:GROWING]
        rate = torch.log(slope.clamp(min=SMALLEST_SLOPE))
        grown = back * rate
        total = back * _mean_growth(grown) / _mean_growth(rate)  # of the geometric series 1 + slope + ...
        return copies, torch.exp(grown) * copies[:, :, :GROWING] + intercept * total


def _prominence(error: Tensor) -> Tensor:
    """Return how much less each lag's error is than its neighbours' mean, a step apart.

    Shapes: error [..., lags]; returns the same.
    """
    lags = torch.tensor((*LAGS, 2 * LAGS[-1] - LAGS[-2]), device=error.device)
    apart = (lags[2:] - lags[:-2]) / 2
    beyond = torch.cat([error[..., 2:], error[..., -1:]], -1)
    between = ((error[..., :-1] + beyond) / 2 - error[..., 1:]) / apart
    return functional.pad(between, (1, 0), value=NO_SEASON)


def _mean_growth(rate: Tensor) -> Tensor:
    """Return (exp(rate) - 1) / rate; near zero by its series, where float32 would leave the difference no digits."""
    near = rate.abs() < 0.1
    series = 1 + rate / 2 * (1 + rate / 3 * (1 + rate / 4 * (1 + rate / 5)))
    return torch.where(near, series, (torch.exp(rate) - 1) / torch.where(near, 1.0, rate))
