"""A history compared with itself some steps ago: what each lag would have foreseen, and how it would go on.

For every lag of a fixed bank, two predictors go through the history: the value that many steps ago plus the mean
change over them (drift), and a straight line through it (regression: growth, decay, a season that grows with its
level). It tells how far off each was. It has no weights: which lags to believe is for the network.

Invariant: what stands after an anchor, or before a row's first value, enters nothing that is said of this anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Every lag up to 128, then fewer: past 256 those of common calendars (two weeks of hours, a year of days).
LAGS: tuple[int, ...] = (*range(1, 129), *range(130, 193, 2), *range(196, 257, 4), 250, 300, 336, 360, 364, 365)
GROWING = 64  # first lags of the bank whose regression is continued; it costs the most
RECENT = 4  # segments of the error that forgets
SMALLEST_VARIANCE = 1e-6  # in squared scales: float32 sums do not tell less from nothing
RIDGE = 1e-2  # in squared scales: of a history at rest no slope is to be read
ROUNDING = 1e-4  # share of a float32 sum below which its difference from another is rounding, a hundredth of it at most
LARGEST_GROWTH = 4.0  # of a regression over the whole horizon


@dataclass(frozen=True)
class Comparison:
    """What each lag tells at each anchor, all [batch, anchors, lags], in squared units and units of the series."""

    pairs: Tensor
    drift: Tensor  # mean change over the lag
    slope: Tensor
    intercept: Tensor
    drift_error: Tensor  # variance about the drift
    recent_error: Tensor  # the same over the last `RECENT` segments
    slope_error: Tensor  # variance about the regression


def compare(series: Tensor, first: Tensor, anchors: Tensor, segments: Tensor, segment: int, horizon: int) -> Comparison:
    """Compare each row with itself `LAGS` ago, from its first value to each anchor.

    Shapes: series [batch, time], time a multiple of `segment`; first [batch], where the row begins; anchors
    [batch, anchors], counted in segments, of which the row has `segments` [batch].
    """
    time = series.shape[1]
    lags = torch.tensor(LAGS, device=series.device)
    end = ((anchors + 1) * segment)[..., None]
    begin = first[:, None, None]
    pairs = (end - begin - lags).clamp(min=0)
    place = torch.arange(time, device=series.device)
    inside = series.double() * (place >= first[:, None])  # in float64: long stretches would round short ones
    total = _Prefix(inside)
    total_square = _Prefix(inside.square())

    def mean_change(start: Tensor, end: Tensor) -> Tensor:
        later, earlier = total.between(start, end), total.between(start - lags, end - lags)
        return ((later - earlier) / (end - start).clamp(min=1)).float()

    # Sums are taken about the whole row's means: about zero, a steep line would leave nothing but rounding.
    stop = segments[:, None, None] * segment
    whole = torch.minimum(begin + lags, stop)
    usual = mean_change(whole, stop)
    middle = (total.between(begin, stop - (whole - begin)) / (stop - whole).clamp(min=1)).float()
    squares, products = _sums(series, first, usual[:, 0], middle[:, 0], lags, segment)
    start = torch.minimum(begin + lags, end)
    count = pairs.clamp(min=1).float()
    drift = mean_change(start, end)
    unusual = drift - usual
    mean = total.between(begin, begin + pairs) / count
    spread = (total_square.between(begin, begin + pairs) / count - mean.square()).float().clamp(min=0)
    together = _at(products, anchors) / count - unusual * (mean.float() - middle)
    drift_error = (_at(squares, anchors) / count - unusual.square()).clamp(min=0)
    beyond_one, slope_error = _regress(together, spread, drift_error, lags / horizon)
    recent = torch.minimum(pairs, torch.full_like(pairs, RECENT * segment))
    late = torch.maximum(start, end - RECENT * segment)
    recent_change = mean_change(late, end) - usual
    recent_error = _lately(squares, anchors) / recent.clamp(min=1) - recent_change.square()
    recent_error = torch.maximum(recent_error, ROUNDING * (recent_change - unusual).square())
    return Comparison(
        pairs=count * (pairs > 0),
        drift=drift,
        slope=1 + beyond_one,
        intercept=drift - beyond_one * mean.float(),
        drift_error=drift_error,
        recent_error=recent_error,
        slope_error=slope_error,
    )


def _regress(together: Tensor, spread: Tensor, drift_error: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return by how much each regression's slope is beyond 1, and the variance about it.

    Shapes: together (the covariance of change and value), spread (the variance of values) and drift_error
    [batch, anchors, lags]; share [lags], of the horizon; returns two of [batch, anchors, lags].
    """
    largest = LARGEST_GROWTH ** share.clamp(max=1)
    beyond_one = torch.minimum((together / (spread + RIDGE)).clamp(min=-1), largest - 1)
    error = drift_error - 2 * beyond_one * together + beyond_one.square() * spread
    return beyond_one, torch.maximum(error, ROUNDING * drift_error)


def _lately(sums: Tensor, anchors: Tensor) -> Tensor:
    """Return what the last `RECENT` segments up to each anchor added to running sums.

    Shapes: sums [batch, segments, lags]; anchors [batch, anchors]; returns [batch, anchors, lags].
    """
    older = _at(sums, (anchors - RECENT).clamp(min=0)) * (anchors >= RECENT)[..., None]
    return _at(sums, anchors) - older


def _sums(
    series: Tensor, first: Tensor, usual: Tensor, middle: Tensor, lags: Tensor, segment: int
) -> tuple[Tensor, Tensor]:
    """Sum squared changes less usual ones, and these times what changed less its middle, up to each segment's end.

    The batch stands last until they are summed, so that looking back copies whole rows.

    Shapes: usual and middle [batch, lags]; returns two of [batch, segments, lags].
    """
    batch, time = series.shape
    back = torch.arange(time, device=series.device)[:, None] - lags
    inside = (back.float()[..., None] - (first.float() - 1)).clamp(0, 1)  # as numbers: comparing is slower
    steps = series.T.contiguous()
    earlier = steps.index_select(0, back.clamp(min=0).flatten()).view(time, len(LAGS), batch)
    change = (steps[:, None] - earlier - usual.T) * inside
    shape = (time // segment, segment, len(LAGS), batch)
    squares = (change * change).view(shape).sum(1)
    products = (change * (earlier - middle.T)).view(shape).sum(1)
    return squares.cumsum(0).permute(2, 0, 1), products.cumsum(0).permute(2, 0, 1)


def _at(sums: Tensor, anchors: Tensor) -> Tensor:
    """Look up sums at anchors. Shapes: sums [batch, segments, lags]; returns [batch, anchors, lags]."""
    return sums.gather(1, anchors[..., None].expand(-1, -1, sums.shape[2]))


class _Prefix:
    """Sums of a row between any two places."""

    def __init__(self, row: Tensor) -> None:
        self._sums = functional.pad(row.cumsum(1), (1, 0))

    def between(self, start: Tensor, end: Tensor) -> Tensor:
        """Sum from `start` up to, not including, `end`. Shapes: start and end [batch, anchors, lags], or of size 1."""
        nowhere = torch.zeros_like(start + end)
        return self._look_up(end + nowhere) - self._look_up(start + nowhere)

    def _look_up(self, place: Tensor) -> Tensor:
        return self._sums.gather(1, place.clamp(min=0).flatten(1)).view(place.shape)


def periods(horizon: int) -> tuple[Tensor, Tensor]:
    """Count for each lag and step of the horizon the lags to go back, and where from the end on that leads.

    Shapes: returns [lags, horizon] int64 each; the second counts from the end of the longest lag's stretch.
    """
    lags = torch.tensor(LAGS)[:, None]
    ahead = torch.arange(horizon)
    return ahead // lags + 1, max(LAGS) - lags + ahead % lags


def latest(series: Tensor, anchors: Tensor, count: int, segment: int) -> Tensor:
    """Take the last `count` values up to each anchor, the row's first place repeated before it.

    Shapes: series [batch, time]; anchors [batch, anchors]; returns [batch, anchors, count].
    """
    place = (anchors[..., None] + 1) * segment - count + torch.arange(count, device=series.device)
    return series.gather(1, place.clamp(min=0).flatten(1)).view(place.shape)
