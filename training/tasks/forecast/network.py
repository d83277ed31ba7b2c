"""The forecaster's network: any history in, quantiles of the next `HORIZON` values out, the scaling inside.

The history is cut into segments of `SEGMENT` values, aligned at its end. Each segment is written relative to its own
last value, in units of the mean absolute step so far, and read by a stacked recurrent layer. The segment to forecast
from is the anchor: any segment in training, the last one in service. From the anchor, experts continue the history as
if it repeated itself at the lags that foresaw it best. A decoder reads the layer's output at the anchor, the latest
values and the experts' paths. It gives the trust in each expert, and quantiles about the trusted path, in units of the
best lag's error. It knows neither data nor training.

Invariants: a*x + b in, a*y + b out for a > 0 (up to float32 of differences); quantiles never cross; whatever stands
beyond a row's length, and whichever rows share the batch, the row's answer is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.networks.recurrent import Recurrent
from training.series.conformal import apply_offsets
from training.series.quantiles import LEVELS, rising
from training.series.rounding import DOUBLE_STEP, FLOAT_STEP, SMALLEST_SCALE
from training.tasks.forecast.experts import Experts

HORIZON = 48
MIN_HISTORY, MAX_HISTORY = 8, 512
SEGMENT = 16
ARRIVALS, BOUND_SHARE = 4, 0.1  # times that a series comes to its least value, and share of its values
CONTEXT = 128  # latest values that the decoder sees directly: two years of weeks, five days of hours

# Where a history moved that much less at an anchor than at its end, the end's float32 steps are too coarse for experts.
COARSEST = 1e3


def quadrature() -> Tensor:
    """Return the weights that make a mean of the quantiles: the trapezoidal rule, the outermost levels held constant.

    Shapes: returns [13], summing to one.
    """
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    edges = torch.cat([torch.zeros(1), middles, torch.ones(1)])
    return edges.diff().float()


class ForecastNetwork(nn.Module):
    """Map histories to quantiles of what follows them."""

    mean_weights: Tensor

    def __init__(self, hidden: int = 192, layers: int = 2, decoder: int = 384, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * SEGMENT + 4, hidden)
        self.recurrent = Recurrent("gru", hidden, hidden, layers=layers, dropout=dropout)
        self.experts = Experts(hidden, SEGMENT, HORIZON)
        self.decode = nn.Sequential(
            nn.Linear(hidden + CONTEXT + 3 + self.experts.features, decoder),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(decoder, decoder),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(decoder, HORIZON * (len(LEVELS) + self.experts.count)),
        )
        self.register_buffer("mean_weights", quadrature(), persistent=False)

    def forward(self, values: Tensor, lengths: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Forecast from each row's end.

        Shapes: values [batch, time] float64; lengths [batch] int32; offsets [13], conformal; returns mean [batch, 48]
        and quantiles [batch, 48, 13], float64.
        Units: those of the values.
        """
        last = segments(lengths.long())[:, None] - 1
        scaled, level, scale, _ = self.at(values, lengths, last)
        away = scale[..., None] * apply_offsets(scaled[:, 0], offsets, LEVELS)
        quantiles = within(level[..., None] + away.double(), *bounds(values, lengths))
        return level + (quantiles - level[..., None]) @ self.mean_weights.double(), quantiles

    def at(self, values: Tensor, lengths: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Forecast from the ends of the segments that `anchors` counts, each from the history up to there.

        A history becomes float32 as its differences from its last value, so that its level costs them nothing.

        Shapes: values [batch, time]; lengths [batch] int32; anchors [batch, anchors] int64; returns scaled quantiles
        [batch, anchors, 48, 13]; level, of the dtype of the values, scale, and what a step of the best lag is off
        [batch, anchors].
        Units: quantiles in scales above the level; the last in scales.
        """
        last = values.gather(1, lengths.long()[:, None] - 1)
        history = History.of((values - last).float(), lengths, (last.abs() * DOUBLE_STEP).float())
        read, _ = self.recurrent(functional.relu(self.embed(history.features())), segments(lengths), None)
        read = read.gather(1, anchors[..., None].expand(-1, -1, read.shape[2]))
        level, scale = history.level.gather(1, anchors), history.scale.gather(1, anchors)
        seen, share = _latest(history.cells, history.real, anchors, level, scale)
        summary = torch.stack([history.age.gather(1, anchors), history.liveliness.gather(1, anchors), share], 2)
        count = segments(lengths.long())
        series, unit = history.centred(count)
        finer = unit / scale
        finer = torch.where(finer < COARSEST, finer, 0.0)
        first = count * SEGMENT - lengths.long()
        paths, spread, foreseen = self.experts(series, first, count, anchors, finer, read)
        raw = self.decode(torch.cat([read, seen, summary, foreseen], 2)).float()
        raw = raw.unflatten(2, (HORIZON, len(LEVELS) + self.experts.count))
        trust = functional.softmax(raw[..., len(LEVELS) :], -1)
        path = (trust * paths).sum(-1, keepdim=True)
        quantiles = path + spread[..., None, None] * rising(raw[..., : len(LEVELS)])
        return quantiles, last + level.to(last.dtype), scale, spread


@dataclass(frozen=True)
class History:
    """Rows cut into segments, and what each segment knows of its row so far; all but the first two [batch, segments].

    `level` is the segment's last value, `scale` the mean absolute step so far, `liveliness` how much the segment moved
    beside that, `age` how long the row has been.
    """

    cells: Tensor  # [batch, segments, SEGMENT]
    real: Tensor  # the same, 1 where a value stands
    level: Tensor
    scale: Tensor
    liveliness: Tensor
    age: Tensor

    @classmethod
    def of(cls, values: Tensor, lengths: Tensor, finest: Tensor) -> History:
        """Cut rows, in which nothing moves by less than `finest`.

        Shapes: values [batch, time]; lengths [batch]; finest [batch, 1].
        """
        cells, real, steps, counted = cut(values, lengths)
        level = cells[:, :, -1]
        moved, count = steps.abs().sum(2), counted.sum(2)
        count_so_far = count.cumsum(1)
        floor = torch.maximum(level.abs() * FLOAT_STEP, finest).clamp(min=SMALLEST_SCALE)
        scale = torch.maximum(moved.cumsum(1) / count_so_far.clamp(min=1), floor)
        liveliness = torch.log(moved / count.clamp(min=1) / scale + 0.01)
        age = torch.log1p(count_so_far) / 6  # about 1 at the longest history
        return cls(cells, real, level, scale, liveliness, age)

    def features(self) -> Tensor:
        """Write each segment as the recurrent layer reads it. Shapes: returns [batch, segments, 2 * SEGMENT + 4]."""
        level, scale = self.level, self.scale
        return torch.cat(
            [
                torch.asinh((self.cells - level[..., None]) / scale[..., None]) * self.real,
                self.real,
                torch.asinh((level - _before(level)) / scale)[..., None],
                self.liveliness[..., None],
                torch.log(_before(scale) / scale).clamp(-5, 5)[..., None],
                self.age[..., None],
            ],
            2,
        )

    def centred(self, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows about their means in units of the scale at their ends, and these units.

        Shapes: count [batch], of segments; returns [batch, segments * SEGMENT] and [batch, 1].
        """
        centre = (self.cells * self.real).sum((1, 2)) / self.real.sum((1, 2))
        unit = self.scale.gather(1, count[:, None] - 1)
        return (self.cells.flatten(1) - centre[:, None]) / unit, unit


def bounds(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Find what each row never passes: its least or greatest value, if it came back to exactly that again and again.

    So a count stays above its zeros. The value must return in each third of the row, so that a series which falls or
    rises by whole numbers is not held at the value that it has reached. Where a row has no bound, infinity.

    Shapes: values [batch, time]; lengths [batch]; returns two of [batch].
    """
    place = torch.arange(values.shape[1], device=values.device)
    inside = place < lengths[:, None]
    third = 3 * place // lengths[:, None]

    def bound(signed: Tensor) -> Tensor:
        least = signed.masked_fill(~inside, torch.inf).amin(1, keepdim=True)
        there = ((signed == least) & inside).float()
        arrivals = (there[:, 1:] * (1 - there[:, :-1])).sum(1)
        throughout = [(there * (third == part)).sum(1) > 0 for part in range(3)]
        held = (arrivals >= ARRIVALS) & (there.sum(1) >= BOUND_SHARE * lengths) & torch.stack(throughout).all(0)
        return torch.where(held, least[:, 0], -torch.inf)

    return bound(values), -bound(-values)


def within(quantiles: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Keep quantiles within each row's bounds. Shapes: quantiles [batch, 48, 13]; low and high [batch]."""
    return torch.minimum(torch.maximum(quantiles, low[:, None, None]), high[:, None, None])


def segments(lengths: Tensor) -> Tensor:
    """Count the segments of each row.

    Shapes: lengths [batch]; returns [batch], of the same dtype.
    """
    return (lengths + (SEGMENT - 1)) // SEGMENT


def cut(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut each row into segments that end where the row ends; only the first may be partly empty.

    Shapes: values [batch, time]; lengths [batch]; returns, each [batch, segments, SEGMENT], the values, 1 where a value
    stands, each value's step from the one before it, and 1 where that step exists.
    """
    batch, time = values.shape
    count = (time + SEGMENT - 1) // SEGMENT
    length = lengths.long()[:, None]
    position = torch.arange(count * SEGMENT, device=values.device)[None] + length - segments(length) * SEGMENT
    inside = position < length
    real, counted = (inside & (position >= 0)).float(), (inside & (position >= 1)).float()
    position = torch.minimum(position, length - 1)
    cells = values.gather(1, position.clamp(min=0))
    before = values.gather(1, (position - 1).clamp(min=0))
    shape = (batch, count, SEGMENT)
    return (
        cells.view(shape),
        real.view(shape),
        ((cells - before) * counted).view(shape),
        counted.view(shape),
    )


def _before(per_segment: Tensor) -> Tensor:
    """Shift by one segment; the first keeps its own.

    Shapes: per_segment [batch, segments]; returns the same.
    """
    return torch.cat([per_segment[:, :1], per_segment[:, :-1]], 1)


def _latest(cells: Tensor, real: Tensor, anchors: Tensor, level: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Take the last `CONTEXT` values up to each anchor, and the share of them that exists.

    Shapes: cells and real [batch, segments, SEGMENT]; anchors, level and scale [batch, anchors]; returns
    [batch, anchors, CONTEXT] and [batch, anchors].
    """
    place = (anchors[..., None] + 1) * SEGMENT - CONTEXT + torch.arange(CONTEXT, device=cells.device)
    index = place.clamp(min=0).flatten(1)
    exists = real.flatten(1).gather(1, index).view(place.shape) * (place >= 0)
    seen = cells.flatten(1).gather(1, index).view(place.shape)
    return torch.asinh((seen - level[..., None]) / scale[..., None]) * exists, exists.sum(2) / CONTEXT
