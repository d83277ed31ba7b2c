"""The live forecaster's figures beside their floors, on data that training never saw.

It knows the test part, measures, floors, and how to ask a running service step by step; what serves there it does not.

Invariant: a figure and its floor come from the same values in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from service.contract import Metric
from training.evaluate import ask
from training.forecast_data import ETT_TEST, ETT_TRAIN
from training.forecast_metrics import constant_spread, coverage, pinball, spread_loss

Values = npt.NDArray[np.float64]

# From streams [streams, time] to the quantiles of each next observation [streams, time, 13].
Streamer = Callable[[Values], Values]

STEPS_PER_CALL = 250
LIVE_WARM_UP = 512


def ask_streams(url: str, model: str, streams: Values) -> Values:
    """Go through streams by `POST /v1/step`, each one's state going back and forth as a token.

    Shapes: as `Streamer`.
    """
    quantiles: list[Values] = []
    tokens: list[dict[str, str]] = [{} for _ in streams]
    for start in range(0, streams.shape[1], STEPS_PER_CALL):
        chunks = streams[:, start : start + STEPS_PER_CALL].tolist()
        items = [{"values": chunk, **token} for chunk, token in zip(chunks, tokens, strict=True)]
        results = ask(url, "/v1/step", "items", items, model=model, **{"return": "all"})
        quantiles.append(np.array([result["outputs"]["quantiles"] for result in results]))
        tokens = [{"state": result["state"]} for result in results]
    return np.concatenate(quantiles, axis=1)


def live_figures(ett: Values, stream: Streamer) -> tuple[Metric, ...]:
    """Measure one-step quantiles on ETTh1's test part, every channel a stream warmed up on the values before it.

    Shapes: ett [time, 7].
    Units: the loss in standard deviations of the training part.
    """
    answers = stream(ett[ETT_TEST.start - LIVE_WARM_UP : ETT_TEST.stop - 1].T)[:, LIVE_WARM_UP - 1 :]
    losses, on_test, on_train, covered = [], [], [], []
    for channel, quantiles in zip(ett.T, answers, strict=True):
        unit = channel[ETT_TRAIN].std()
        test = channel[ETT_TEST.start - 1 : ETT_TEST.stop]  # the value before the part is the first one's last value
        losses.append(pinball(test[1:], quantiles).mean() / unit)
        on_test.append(spread_loss(test, constant_spread(test)) / unit)
        on_train.append(spread_loss(test, constant_spread(channel[ETT_TRAIN])) / unit)
        covered.append(coverage(test[1:], quantiles, 0.05, 0.95))
    loss, spread = np.mean(losses), "last value with the best constant spread per channel and level, fitted on "
    return (
        _metric("etth1_test_pinball", loss, np.mean(on_test), spread + "the test part itself"),
        _metric("etth1_test_pinball_vs_training_fit", loss, np.mean(on_train), spread + "the training part"),
        _metric("etth1_test_coverage_90", np.mean(covered)),
    )


def _metric(name: str, value: Any, floor: Any = None, floor_method: str | None = None) -> Metric:
    shown = None if floor is None else round(float(floor), 5)
    return Metric(name=name, value=round(float(value), 5), floor=shown, floor_method=floor_method)
