"""The recipe `forecast-live`, from data to a served model, made tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from service.contract.provenance import Metric
from training.catalogue import find_recipe
from training.datasets import Found
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.series.quantiles import LEVELS
from training.tasks.forecast_live import recipe as forecast_live
from training.tasks.forecast_live.calibration import HeldOut
from training.tasks.forecast_live.evaluation import ask_streams
from training.tasks.forecast_live.module import Chunks, LiveModule
from training.tasks.forecast_live.network import LiveNetwork
from training.tasks.forecast_live.recipe import Settings, calibration_streams, held_out_streams, training_mixture

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")


@pytest.fixture
def weekly() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [100 + rng.normal(size=length).cumsum() for length in (80, 700)]


@pytest.fixture
def ett() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(17420, 7)).cumsum(axis=0)


def checked(streams: int, steps: int, answer: tuple[np.ndarray, np.ndarray]) -> tuple[Metric, ...]:
    quantiles, anomaly = answer
    assert quantiles.shape == (streams, steps, len(LEVELS))
    assert anomaly.shape == (streams, steps)
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()
    return (Metric(name="largest", value=float(anomaly.max())),)


def test_held_out_streams_end_with_the_first_half_of_the_validation_part(ett):
    ett[10080:] = np.nan
    chunks = held_out_streams(ett)
    assert torch.isfinite(chunks.values).all()
    assert chunks.values[0, -1] == np.float32(ett[10079, 0])


def test_calibration_takes_what_neither_trained_nor_chose(ett):
    """The second half of the validation part; what stands before it only warms up."""
    calibration = calibration_streams(ett)
    np.testing.assert_array_equal(calibration.values[:, calibration.warm_up :], ett[10080:11520].T)


def test_forecast_live_recipe_publishes_what_the_service_steps_with(tmp_path: Path, weekly, ett, monkeypatch):
    """Train one epoch, calibrate, pass parity, publish, and stream through the service with tokens carried."""

    def prepare(settings: Settings, seed: int) -> LiveModule:
        mixture = training_mixture(weekly, ett, 0.4, 0.2)
        held_out, calibration = Chunks(*mixture.draw(0, 4, 200)), HeldOut(ett[:200].T, 100)
        tiny = settings.model_copy(update={"windows": 4})
        return LiveModule(tiny, LiveNetwork(), mixture, held_out, calibration, seed)

    recipe = find_recipe("forecast-live")
    run = recipe.run.model_copy(update={"epochs": 1})
    recipe = replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(forecast_live, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    release = replace(
        recipe.release(module),
        measure=lambda url: checked(7, 300, ask_streams(url, "forecast-live", ett[:300].T)),
    )
    manifest = read_manifest(publish(release, tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable
    names = [state.input for state in manifest.states]
    assert names == ["window", "count", "expected", "remembered", "limit", "running", "h0", "c0", "h1", "c1"]
    assert manifest.outputs[0].labels == tuple(f"{level:g}" for level in LEVELS)
    assert [output.name for output in manifest.outputs] == ["quantiles", "anomaly", "likelihood"]
    assert len(manifest.constants["conformal_offsets"]) == len(LEVELS)
