"""What is worth a picture of `forecast-live`: a stream in its one-step interval, and what it calls an anomaly.

It asks a running service, as every figure does; drawing and files it leaves to `training.report`.
Invariant: the faults are put in at fixed places, in units of what the stream itself moves by.
"""

from __future__ import annotations

import numpy as np

from service.contract.manifest import Manifest
from training.datasets import find
from training.evaluate import ask
from training.report.pages import Picture, Table
from training.report.plots import draw_anomalies
from training.series.data import ETT, ETT_TEST, read_ett
from training.series.quantiles import LEVELS
from training.tasks.forecast_live.evaluation import LIVE_WARM_UP

SHOWN = 240  # hours
FAULTS = {60: 8.0, 130: -5.0, 200: 3.0}  # hour shown: jump for that hour, in mean absolute steps of the hours before
LOW, HIGH = LEVELS.index(0.025), LEVELS.index(0.975)


def report_live(url: str, manifest: Manifest) -> tuple[tuple[Picture, ...], tuple[Table, ...]]:
    """Report on ETTh1's oil temperature with faults put in by hand."""
    channel = read_ett(find(ETT).path)[:, -1]
    stream = channel[ETT_TEST.start - LIVE_WARM_UP : ETT_TEST.start + SHOWN].copy()
    step = np.abs(np.diff(channel[: ETT_TEST.start])).mean()
    for hour, jump in FAULTS.items():
        stream[LIVE_WARM_UP + hour] += jump * step
    items = [{"values": stream.tolist()}]
    (result,) = ask(url, "/v1/step", "items", items, model=manifest.name, **{"return": "all"})
    quantiles = np.array(result["outputs"]["quantiles"])[LIVE_WARM_UP - 1 : -1]  # each predicts the hour after it
    caption = (
        "Oil temperature of ETTh1's test part, an observation an hour, with three faults put in at the red points. "
        "Above 1 an observation lies outside the 95 % interval that was predicted for it an hour before."
    )
    drawn = draw_anomalies(
        stream[LIVE_WARM_UP:],
        quantiles[:, LOW],
        quantiles[:, HIGH],
        np.array(result["outputs"]["anomaly"])[LIVE_WARM_UP:],
        list(FAULTS),
    )
    return (Picture("anomalies", caption, drawn),), ()
