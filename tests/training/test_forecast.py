"""The recipe `forecast`, from data to a served model, made tiny."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract import Metric, read_manifest
from training import forecast
from training.catalogue import find_recipe
from training.data import VARIABLE, Found, find
from training.forecast import training_mixture
from training.forecast_data import read_weekly
from training.forecast_evaluation import ask_forecast
from training.forecast_metrics import LEVELS
from training.forecast_network import ForecastNetwork
from training.forecast_training import ForecastModule, held_out_futures
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


def stand_in(folder: Path) -> Callable[[str], Found]:
    """Name data files without having them."""
    return lambda name: Found(name, folder / name, "0" * 64)


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


def test_training_sees_neither_held_out_nor_later_values(weekly, ett):
    """With each series' last 13 values and ETTh1's later parts made NaN, every training window is finite."""
    for series in weekly:
        series[-13:] = np.nan
    ett[8640:] = np.nan
    values, _ = training_mixture(weekly, ett, weekly_share=0.5, ett_share=0.5).draw(0, 1000, 560)
    assert torch.isfinite(values).all()


def test_forecast_recipe_publishes_what_the_service_forecasts_with(tmp_path: Path, weekly, ett, monkeypatch):
    """Train one epoch, pass parity, publish, and get quantiles in order through the service."""
    held_out = held_out_futures([(series[:-13], series[-13:]) for series in weekly])

    def prepare(settings: forecast.Settings, seed: int) -> ForecastModule:
        mixture = training_mixture(weekly, ett, 0.4, 0.2)
        return ForecastModule(ForecastNetwork(), mixture, held_out, seed, windows=64, learning_rate=2e-3)

    recipe = one_epoch("forecast", prepare)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(forecast, "find", stand_in(tmp_path))
    release = replace(
        recipe.release(module),
        measure=lambda url: checked((2, 13, len(LEVELS)), ask_forecast(url, "forecast", weekly, 13)),
    )
    manifest = read_manifest(publish(release, tmp_path / "models", command="a test", seed=1))
    assert manifest.forecast is not None
    assert (manifest.forecast.min_history, manifest.forecast.horizon) == (8, 48)
    assert [source.name for source in manifest.provenance.data][-1] == "generated series"


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with the M4 series")
def test_the_real_series_are_as_the_competition_describes_them():
    """359 weekly series, each with 13 test values."""
    assert len(read_weekly(find("m4_weekly/Weekly-train.csv").path)) == 359
    assert {len(series) for series in read_weekly(find("m4_weekly/Weekly-test.csv").path)} == {13}
