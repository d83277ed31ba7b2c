"""Calibration of the live forecaster on streams held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.series.metrics import coverage
from training.series.quantiles import LEVELS
from training.tasks.forecast_live.calibration import HeldOut, fit_offsets, predictions
from training.tasks.forecast_live.network import LiveNetwork


@pytest.fixture(scope="module")
def network() -> LiveNetwork:
    torch.manual_seed(0)
    return LiveNetwork(hidden=12).eval()


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return HeldOut(np.random.default_rng(0).normal(size=(3, 300)).cumsum(axis=1), 60)


@torch.no_grad()
def served(network: LiveNetwork, values: np.ndarray, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return quantiles and anomaly as the graph gives them."""
    lengths = torch.full((len(values),), values.shape[1], dtype=torch.int32)
    streams = torch.from_numpy(values)
    quantiles, anomaly, *_ = network(streams, lengths, offsets, *network.zero_states(len(values)))
    return quantiles, anomaly


def test_predictions_stand_beside_what_followed(network, held_out):
    """A stream cut before its last observation predicts that one as the whole stream says it did."""
    steps, away = predictions(network, held_out)
    np.testing.assert_allclose(steps, np.diff(held_out.values)[:, 59:], atol=1e-5)
    quantiles, _ = served(network, held_out.values[:, :-1], torch.zeros(len(LEVELS)))
    last = torch.from_numpy(held_out.values[:, -2:-1])
    torch.testing.assert_close(away[:, -1].double(), quantiles[:, -1] - last, rtol=1e-4, atol=1e-4)


def test_offsets_give_the_calibrating_streams_their_coverage(network, held_out):
    """Served with the fitted offsets, the outer interval holds its share, and as many scores are within 1."""
    offsets = torch.tensor(fit_offsets(network, held_out))
    quantiles, anomaly = served(network, held_out.values, offsets)
    actual, predicted = held_out.values[:, 60:], quantiles[:, 59:-1].numpy()
    covered = coverage(actual, predicted, 0.025, 0.975)
    assert covered == pytest.approx(0.95, abs=0.01)
    assert (anomaly[:, 60:].numpy() <= 1).mean() == pytest.approx(covered, abs=0.003)
