"""The recipe `forecast-live`, from data to a served model, made tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract import Metric, read_manifest
from training import forecast_live
from training.catalogue import find_recipe
from training.data import Found
from training.forecast_live import held_out_streams, training_mixture
from training.forecast_live_evaluation import ask_streams
from training.forecast_live_network import LiveNetwork
from training.forecast_live_training import Chunks, LiveModule
from training.forecast_metrics import LEVELS
from training.publish import publish
from training.recipe import Recipe
from training.runs import fit

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")


@pytest.fixture
def weekly() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [100 + rng.normal(size=length).cumsum() for length in (80, 700)]


@pytest.fixture
def ett() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(17420, 7)).cumsum(axis=0)


def one_epoch(name: str, prepare: Any) -> Recipe:
    """The project's recipe with another module, for one epoch."""
    recipe = find_recipe(name)
    run = recipe.run.model_copy(update={"epochs": 1})
    return replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)


def checked(shape: tuple[int, ...], answer: np.ndarray) -> tuple[Metric, ...]:
    assert answer.shape == shape
    assert np.isfinite(answer).all()
    assert (np.diff(answer, axis=-1) >= 0).all()
    return (Metric(name="quantiles", value=answer.size),)


def test_held_out_streams_end_with_the_validation_part(ett):
    ett[11520:] = np.nan
    chunks = held_out_streams(ett)
    assert torch.isfinite(chunks.values).all()
    assert chunks.values[1, -1] == np.float32(ett[11519, 0])


def test_forecast_live_recipe_publishes_what_the_service_steps_with(tmp_path: Path, weekly, ett, monkeypatch):
    """Train one epoch, pass parity, publish, and stream through the service with tokens carried."""

    def prepare(settings: forecast_live.Settings, seed: int) -> LiveModule:
        mixture = training_mixture(weekly, ett, 0.4, 0.2)
        held_out = Chunks(*mixture.draw(0, 4, 200))
        return LiveModule(LiveNetwork(), mixture, held_out, seed, windows=4, learning_rate=3e-3)

    recipe = one_epoch("forecast-live", prepare)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(forecast_live, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    release = replace(
        recipe.release(module),
        measure=lambda url: checked((7, 300, len(LEVELS)), ask_streams(url, "forecast-live", ett[:300].T)),
    )
    manifest = read_manifest(publish(release, tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable
    assert [state.input for state in manifest.states] == ["window", "count", "running", "h0", "c0", "h1", "c1"]
    assert manifest.outputs[0].labels == tuple(f"{level:g}" for level in LEVELS)
