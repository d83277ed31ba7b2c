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
from pydantic import ValidationError

from service.contract.files import read_manifest
from service.contract.provenance import Metric
from training.catalogue import find_recipe
from training.datasets import VARIABLE, Found, find
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.recipe import Recipe
from training.series.conformal import OFFSETS
from training.series.data import read_weekly
from training.series.quantiles import LEVELS
from training.tasks.forecast import recipe as forecast
from training.tasks.forecast.evaluation import ask_forecast
from training.tasks.forecast.module import ForecastModule, held_out_futures
from training.tasks.forecast.network import ForecastNetwork
from training.tasks.forecast.recipe import training_mixture

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")


@pytest.fixture
def weekly() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [100 + rng.normal(size=length).cumsum() for length in (80, 700)]


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


def settings(**changes: Any) -> forecast.Settings:
    """The recipe's settings, made tiny."""
    tiny = {"windows": 64, "hidden": 16, "decoder": 24}
    return find_recipe("forecast").settings.model_copy(update=tiny | changes)


def test_training_never_sees_held_out_values(weekly):
    """With each series' last 13 values made NaN, every training window is finite."""
    for series in weekly:
        series[-13:] = np.nan
    values, _ = training_mixture(weekly, settings(weekly_share=0.9, patterns_share=0.1)).draw(0, 1000, 560)
    assert torch.isfinite(values).all()


def test_series_that_choose_do_not_calibrate(tmp_path: Path, weekly, monkeypatch):
    """Every second series chooses the checkpoint, the others calibrate; synthetic ones differ; ETTh1 is not read."""
    file = tmp_path / "weekly.csv"
    rows = [",".join(["name", *map(repr, series.tolist())]) for series in weekly]
    file.write_text("\n".join(["header", *rows]) + "\n")
    found = {forecast.WEEKLY_TRAIN: Found("weekly", file, "0" * 64)}
    monkeypatch.setattr(forecast, "find", found.__getitem__)
    module = forecast.prepare(settings(), seed=0)
    choosing, calibrating = (part.tensors[2] for part in (module.held_out, module.calibration))
    np.testing.assert_allclose(choosing[0, :13], weekly[0][-13:], rtol=1e-6)
    np.testing.assert_allclose(calibrating[0, :13], weekly[1][-13:], rtol=1e-6)
    assert len(choosing) == 1 + 2 * forecast.CHOOSING_FUTURES
    assert len(calibrating) == 1 + forecast.CALIBRATING_FUTURES
    assert module.calibration.tensors[3][1:].sum() == forecast.CALIBRATING_FUTURES * 48 / forecast.CALIBRATING_EVERY
    varied = [{tuple(row.tolist()) for row in part[1:] if row.std() > 0} for part in (choosing, calibrating)]
    assert min(map(len, varied)) > 40
    assert varied[0].isdisjoint(varied[1])


def test_shares_beyond_the_whole_are_refused():
    with pytest.raises(ValidationError, match=r"weekly_share and patterns_share add up to 1\.2"):
        forecast.Settings(**{**settings().model_dump(), "weekly_share": 0.9, "patterns_share": 0.3})


def test_forecast_recipe_publishes_what_the_service_forecasts_with(tmp_path: Path, weekly, monkeypatch):
    """Train one epoch, pass parity, publish with offsets, and get quantiles in order through the service."""
    held_out = held_out_futures([(series[:-13], series[-13:]) for series in weekly * 4])

    def prepare(given: forecast.Settings, seed: int) -> ForecastModule:
        tiny = settings()
        network = ForecastNetwork(tiny.hidden, tiny.layers, tiny.decoder, tiny.dropout)
        mixture = training_mixture(weekly, tiny)
        return ForecastModule(tiny, network, mixture, held_out, held_out, seed)

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
    assert manifest.constants[OFFSETS] == pytest.approx(module.offsets())
    assert [source.name for source in manifest.provenance.data][-1] == "synthetic patterns"


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder with the M4 series")
def test_the_real_series_are_as_the_competition_describes_them():
    """359 weekly series, each with 13 test values."""
    assert len(read_weekly(find("m4_weekly/Weekly-train.csv").path)) == 359
    assert {len(series) for series in read_weekly(find("m4_weekly/Weekly-test.csv").path)} == {13}
