"""How likely it is that people would mark an observation as anomalous: by the errors of late, and by the values so far.

An observation stands out by the larger of two measures, each 1 where it is worth a report. The first is the tail of the
short mean of the forecaster's errors under the long running distribution of that mean. The second is how far it lies
beyond the range of the values so far. Both have memory, so it is a recurrence over float64 states, which ONNX has as a
`Scan`. What was reported is not reported again at once. It knows neither the network nor data.

Invariants: k steps in one run equal k runs of one step; a*x + b with errors a*e scores as x with e, for a > 0; one
observation, however far out, widens the range by a fifth or by ten mean errors at most, and counts for ten of them.

Source: Ahmad et al., Unsupervised real-time anomaly detection for streaming data, Neurocomputing 262, 2017, for both
measures; docs/training-log.md has what each constant is worth on the Numenta Anomaly Benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan

from training.series.rounding import SMALLEST_SCALE

# Upper end of the range, the lower one's negative; mean error; short mean of errors, its long mean and variance; the
# highest measure of late, and how long ago it was. Means of errors count in the largest error that they may hold.
REMEMBERED = 8
FIRST, YOUNG = 16, 128  # observations of a session before any is remembered, so that errors have settled, and judged
SHORT, LONG = 16, 10_000  # observations over which the short mean forgets, and everything else
MOST_MEANS = 10.0  # mean errors that an error counts for at most
LEAST_DEVIATION = 0.002  # of the short mean: errors that are all alike have none
TAIL = 4.0  # deviations that are worth a report, a tail of 3e-5; beyond, they are worth no more
BEYOND = 0.05  # of the range, beyond which a value is worth a report; source: as above, its detector's
FARTHEST = 5.0  # reports that a value beyond the range is worth at most
WIDENING = 0.2  # of its width, by which a value beyond the range widens it at most, or by `MOST_MEANS` if that is more
REPORTED = 0.8  # measure from where on an observation counts as reported, in full at 1
SILENCE = 64  # observations after a report in which only what stands out further is reported
MAX_LEVEL = 1e30  # what counts of a value's size: the exporter makes constants float32

Carried = tuple[Tensor, ...]


def likelihood(values: Tensor, errors: Tensor, number: Tensor, lengths: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Score observations from 0 to 1: half where one measure is worth a report.

    Shapes: values, absolute errors, and number, counted from 1, [batch, time]; lengths [batch]; state
    [batch, `REMEMBERED`] float64; returns [batch, time] float32 and the state.
    Units: values and errors the same.
    """
    both = torch.stack([values, -values]).clamp(-MAX_LEVEL, MAX_LEVEL)
    begun = number > FIRST
    counted = (number - FIRST).clamp(min=1)
    gains = ((1 / counted).clamp(min=1 / span).double().T for span in (SHORT, LONG))
    real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    sizes = torch.where(begun, errors.detach(), 0.0).double()
    read = both.transpose(0, 2).transpose(1, 2), sizes.T, *gains, begun.T, (number > YOUNG).T, real.T
    ends, others = state[:, :2].T.clone(), [each.clone() for each in state[:, 2:].unbind(1)]
    (ends, *others), score = _recur((ends, *others), read)
    return score.T.float(), torch.cat([ends.T, torch.stack(others, 1)], 1)


def _recur(carried: Carried, read: Carried) -> tuple[Carried, Tensor]:
    if torch.onnx.is_in_onnx_export():
        last, scores = scan(_step, carried, read, dim=0)
        return tuple(last), scores
    scores = []
    for step in zip(*read, strict=True):
        carried, score = _step(carried, step)
        scores.append(score)
    return carried, torch.stack(scores)


def _step(carried: Carried, read: Carried) -> tuple[Carried, Tensor]:
    """Take one observation of each row in. Shapes: value and ends [2, batch], everything else [batch]."""
    value, error, quick, slow, begun, grown, real = read
    ends, mean_error, short, mean, variance, highest, since = carried
    tail, *moments = _tail(error, quick, slow, mean_error, short, mean, variance)
    over, moved = _range(value, torch.where(begun, ends, value), moments[0])
    measure = torch.where(grown, torch.maximum(over, tail), 0.0)
    reported = highest * ((highest - REPORTED) / (1 - REPORTED)).clamp(0, 1)
    news = (measure - reported).clamp(min=0)
    again = (measure >= highest) | (since >= SILENCE)
    kept = torch.where(again, measure, highest), torch.where(again, 0.0, since + 1)
    left = tuple(torch.where(real, new, old) for new, old in zip((moved, *moments, *kept), carried, strict=True))
    return left, news / (1 + news)


def _range(value: Tensor, ends: Tensor, mean_error: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how far a value lies beyond the range so far; return that, and the range with it."""
    width, beyond = ends.sum(0), value - ends
    measure = (beyond.amax(0) / (BEYOND * width).clamp(min=SMALLEST_SCALE)).clamp(0, FARTHEST)
    most = torch.maximum(WIDENING * width, MOST_MEANS * mean_error)
    return measure, ends + torch.where(beyond > 0, torch.minimum(beyond, most), torch.maximum(beyond, -width) / LONG)


def _tail(
    error: Tensor, quick: Tensor, slow: Tensor, mean_error: Tensor, short: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, ...]:
    """Measure how far out the short mean of errors lies; return that, and the moments with it.

    `quick` and `slow` are the shares that the latest has in the short mean and in all others.
    """
    most = MOST_MEANS * mean_error
    mean_error = mean_error + slow * (torch.where(most > 0, torch.minimum(error, most), error) - mean_error)
    size = (error / (MOST_MEANS * mean_error).clamp(min=SMALLEST_SCALE)).clamp(max=1)
    short = short + quick * (size - short)
    off = short - mean
    measure = (off / (TAIL * variance.sqrt()).clamp(min=TAIL * LEAST_DEVIATION)).clamp(0, 1)
    return measure, mean_error, short, mean + slow * off, (1 - slow) * (variance + slow * off * off)
