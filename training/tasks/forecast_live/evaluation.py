"""The live forecaster's figures beside their floors, on data that training never saw.

It knows the test part, measures, floors, and how to ask a running service step by step; what serves there it does not.

Invariant: a figure and its floor come from the same values in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import binary_auroc

from service.contract.provenance import Metric
from training.evaluate import ask
from training.series.data import ETT_TEST, ETT_TRAIN
from training.series.metrics import constant_spread, coverage, pinball, spread_loss
from training.series.nab import Labelled, standard_score
from training.series.nab_detectors import windowed_gaussian

Values = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

# From streams [streams, time] to the quantiles of each next observation [streams, time, 13], and to each observation's
# anomaly score [streams, time].
Streamer = Callable[[Values], tuple[Values, Values]]

STEPS_PER_CALL = 250
LIVE_WARM_UP = 512
INJECTED_EVERY = 100  # observations
INJECTED_STEPS = (3.0, 10.0)  # size of what is injected, in mean absolute steps of the channel's training part
AFTERMATH = 3  # observations after an injected one that are judged neither way
FLOOR_SPAN = 256  # observations over which the floor's running scale forgets


def ask_streams(url: str, model: str, streams: Values) -> tuple[Values, Values]:
    """Go through streams by `POST /v1/step`, each one's state going back and forth as a token.

    Shapes: as `Streamer`.
    """
    quantiles: list[Values] = []
    anomaly: list[Values] = []
    tokens: list[dict[str, str]] = [{} for _ in streams]
    for start in range(0, streams.shape[1], STEPS_PER_CALL):
        chunks = streams[:, start : start + STEPS_PER_CALL].tolist()
        items = [{"values": chunk, **token} for chunk, token in zip(chunks, tokens, strict=True)]
        results = ask(url, "/v1/step", "items", items, model=model, **{"return": "all"})
        quantiles.append(np.array([result["outputs"]["quantiles"] for result in results]))
        anomaly.append(np.array([result["outputs"]["anomaly"] for result in results]))
        tokens = [{"state": result["state"]} for result in results]
    return np.concatenate(quantiles, axis=1), np.concatenate(anomaly, axis=1)


def ask_likelihoods(url: str, model: str, streams: Sequence[Values]) -> list[Values]:
    """Go through streams of any lengths as `ask_streams`; return each observation's likelihood. Shapes: each [time]."""
    parts: list[list[Values]] = [[] for _ in streams]
    tokens: list[dict[str, str]] = [{} for _ in streams]
    for start in range(0, max(map(len, streams)), STEPS_PER_CALL):
        going = [number for number, stream in enumerate(streams) if len(stream) > start]
        chunks = [streams[number][start : start + STEPS_PER_CALL].tolist() for number in going]
        items = [{"values": chunk, **tokens[number]} for number, chunk in zip(going, chunks, strict=True)]
        results = ask(url, "/v1/step", "items", items, model=model, **{"return": "all"})
        for number, result in zip(going, results, strict=True):
            parts[number].append(np.array(result["outputs"]["likelihood"]))
            tokens[number] = {"state": result["state"]}
    return [np.concatenate(own) for own in parts]


def nab_figure(marked: Sequence[Labelled], likelihoods: Callable[[Sequence[Values]], list[Values]]) -> Metric:
    """Measure the likelihood by the Numenta Anomaly Benchmark's standard profile."""
    streams = [each.values for each in marked]
    of_model = standard_score(marked, likelihoods(streams)).score
    of_floor = standard_score(marked, [windowed_gaussian(values) for values in streams]).score
    return _metric("nab_standard", of_model, of_floor, "windowed Gaussian of 6,400 values")


def live_figures(ett: Values, stream: Streamer) -> tuple[Metric, ...]:
    """Measure one-step quantiles and scores on ETTh1's test part, each channel a stream warmed up on what precedes it.

    Shapes: ett [time, 7].
    Units: the loss in standard deviations of the training part.
    """
    answers, scores = stream(ett[ETT_TEST.start - LIVE_WARM_UP : ETT_TEST.stop].T)
    answers, scores = answers[:, LIVE_WARM_UP - 1 : -1], scores[:, LIVE_WARM_UP:]
    actual, units = ett[ETT_TEST].T, ett[ETT_TRAIN].std(axis=0)
    on_test, on_train = [], []
    for channel, unit in zip(ett.T, units, strict=True):
        test = channel[ETT_TEST.start - 1 : ETT_TEST.stop]  # the value before the part is the first one's last value
        on_test.append(spread_loss(test, constant_spread(test)) / unit)
        on_train.append(spread_loss(test, constant_spread(channel[ETT_TRAIN])) / unit)
    loss = (pinball(actual, answers) / units).mean()
    spread = "last value with the best constant spread per channel and level, fitted on "
    return (
        _metric("etth1_test_pinball", loss, np.mean(on_test), spread + "the test part itself"),
        _metric("etth1_test_pinball_vs_training_fit", loss, np.mean(on_train), spread + "the training part"),
        _metric("etth1_test_coverage_80", coverage(actual, answers, 0.1, 0.9)),
        _metric("etth1_test_coverage_90", coverage(actual, answers, 0.05, 0.95)),
        _metric("etth1_test_coverage_95", coverage(actual, answers, 0.025, 0.975)),
        _metric("etth1_test_share_of_anomaly_above_1", np.mean(scores > 1)),
        anomaly_figure(ett, stream),
    )


def anomaly_figure(ett: Values, stream: Streamer) -> Metric:
    """Measure how well scores tell injected spikes and shifts of level from the test part's own observations.

    Shapes: ett [time, 7].
    """
    streams = ett[ETT_TEST.start - LIVE_WARM_UP : ETT_TEST.stop].T
    changed, injected, judged = inject(streams, np.abs(np.diff(ett[ETT_TRAIN], axis=0)).mean(axis=0))
    _, scores = stream(changed)
    target = torch.from_numpy(injected[judged]).long()
    of_model, of_floor = (
        float(binary_auroc(torch.from_numpy(score[judged] / (1 + score[judged])), target))  # it wants 0 to 1
        for score in (scores, relative_steps(changed))
    )
    return _metric("etth1_test_injected_auroc", of_model, of_floor, "absolute step over its running mean")


def inject(streams: Values, steps: Values) -> tuple[Values, Marks, Marks]:
    """Add spikes, one observation long, and shifts of level, which stay, after the warm-up; both equally likely.

    Shapes: streams [streams, time]; steps [streams], the unit of each; returns the changed streams, where something
    begins, and which observations are to be judged [streams, time].
    """
    rng = np.random.default_rng(0)
    changed, injected, judged = streams.copy(), np.zeros(streams.shape, bool), np.zeros(streams.shape, bool)
    judged[:, LIVE_WARM_UP:] = True
    for row, unit in enumerate(steps):
        for block in range(LIVE_WARM_UP, streams.shape[1] - INJECTED_EVERY + 1, INJECTED_EVERY):
            place = block + int(rng.integers(INJECTED_EVERY - AFTERMATH))
            size = unit * rng.uniform(*INJECTED_STEPS) * rng.choice([-1, 1])
            stays = bool(rng.integers(2))
            changed[row, place : None if stays else place + 1] += size
            injected[row, place] = True
            judged[row, place + 1 : place + 1 + AFTERMATH] = False
    return changed, injected, judged


def relative_steps(streams: Values) -> Values:
    """Divide each absolute step by the exponential mean of those before it. Shapes: [streams, time], and the same."""
    sizes = np.abs(np.diff(streams, axis=1, prepend=streams[:, :1]))
    means = np.empty_like(sizes)
    mean = sizes[:, :LIVE_WARM_UP].mean(axis=1)
    for step, size in enumerate(sizes.T):
        means[:, step] = mean
        mean = mean + (size - mean) / FLOOR_SPAN
    return np.asarray(sizes / means)


def _metric(name: str, value: Any, floor: Any = None, floor_method: str | None = None) -> Metric:
    shown = None if floor is None else round(float(floor), 5)
    return Metric(name=name, value=round(float(value), 5), floor=shown, floor_method=floor_method)
