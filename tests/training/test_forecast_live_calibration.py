"""Calibration of the live forecaster on streams held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.forecast_live_calibration import HeldOut, fit_offsets, predictions
from training.forecast_live_network import LiveNetwork
from training.forecast_metrics import LEVELS


@pytest.fixture(scope="module")
def network() -> LiveNetwork:
    torch.manual_seed(0)
    return LiveNetwork(hidden=12).eval()


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    rng = np.random.default_rng(0)
    return HeldOut([rng.normal(size=length).cumsum() for length in (400, 90, 300)], [200, 40, 250])


def test_predictions_stand_beside_what_followed(network, held_out):
    """Each stream alone, cut before an observation, predicts it as the ragged batch says; steps come in order."""
    steps, away = predictions(network, held_out)
    expected = np.concatenate([np.diff(s)[-n:] for s, n in zip(held_out.streams, held_out.counts, strict=True)])
    np.testing.assert_allclose(steps, expected, atol=1e-5)
    last_of_second = held_out.streams[1][:-1]
    values = torch.from_numpy(last_of_second.astype(np.float32))[None]
    lengths = torch.tensor([values.shape[1]], dtype=torch.int32)
    with torch.no_grad():
        quantiles, *_ = network(values, lengths, torch.zeros(len(LEVELS)), *network.zero_states(1))
    torch.testing.assert_close(away[239], quantiles[0, -1] - values[0, -1], rtol=1e-4, atol=1e-4)


def test_offsets_give_the_calibrating_streams_their_coverage(network, held_out):
    """Served with the fitted offsets, the outer intervals hold their share of what calibrated them."""
    offsets = torch.tensor(fit_offsets(network, held_out))
    inside, scores = [], []
    for stream, count in zip(held_out.streams, held_out.counts, strict=True):
        values = torch.from_numpy(stream.astype(np.float32))[None]
        lengths = torch.tensor([values.shape[1]], dtype=torch.int32)
        with torch.no_grad():
            quantiles, anomaly, *_ = network(values, lengths, offsets, *network.zero_states(1))
        actual, predicted = values[0, 1:][-count:], quantiles[0, :-1][-count:]
        inside.append((actual >= predicted[:, 0]) & (actual <= predicted[:, -1]))
        scores.append(anomaly[0, -count:])
    covered = float(torch.cat(inside).double().mean())
    assert covered == pytest.approx(0.95, abs=0.01)
    assert float((torch.cat(scores) > 1).double().mean()) == pytest.approx(1 - covered, abs=0.005)
