"""SegRNN: its protocol on the real series, its promises as a network, and the recipe made tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from service.contract.provenance import Metric
from training.catalogue import find_recipe
from training.datasets import VARIABLE, Found, find
from training.export import parity
from training.export.graph import export
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.series.data import ETT_TEST, ETT_TRAIN, ETT_VALIDATION, read_ett
from training.tasks.segrnn import module as segrnn_module
from training.tasks.segrnn import recipe as segrnn
from training.tasks.segrnn.evaluation import ask_segrnn, etth1_figures
from training.tasks.segrnn.module import HORIZONS, SegRNNModule, Settings, Windows, step_weights
from training.tasks.segrnn.network import HORIZON, LEVELS, LOOKBACK, SegRNNNetwork, latest

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

SETTINGS = Settings(hidden=8, dropout=0.1, batch=256, learning_rate=1e-3, decay=0.8, swell=0.3, average=0.9)
OFFSETS = torch.tensor([0.1, 0.0, -0.1, 0.0, 0.3, 0.2, 0.4])


@pytest.fixture(scope="module")
def ett() -> np.ndarray:
    """A walk of seven channels as long as ETTh1, of sizes that differ."""
    return np.random.default_rng(0).normal(size=(17420, 7)).cumsum(axis=0) / 30 * np.arange(1, 8)


@pytest.fixture
def network() -> SegRNNNetwork:
    torch.manual_seed(0)
    return SegRNNNetwork((1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0), hidden=8).eval()


def walks(rows: int, time: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, time, 7).cumsum(1) / time**0.5


def of_length(rows: int, length: int) -> torch.Tensor:
    return torch.full((rows,), length, dtype=torch.int32)


def test_the_parts_give_the_published_numbers_of_windows(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2785, 2689, 2545 and 2161 windows of validation and test, by horizon; 7201 of training whose future is whole."""
    monkeypatch.setenv(VARIABLE, str(data_dir))
    series = read_ett(find(segrnn.ETT).path)
    for part in (ETT_VALIDATION, ETT_TEST):
        starts = np.array(Windows(series, part).starts)
        assert [int((starts + horizon <= part.stop).sum()) for horizon in HORIZONS] == [2785, 2689, 2545, 2161]
        assert starts[0] == part.start
    starts = np.array(Windows(series, ETT_TRAIN).starts)
    assert int((starts + HORIZON <= ETT_TRAIN.stop).sum()) == 7201


def test_windows_hold_a_history_and_what_follows_it_within_the_part(ett: np.ndarray) -> None:
    windows = Windows(ett, ETT_VALIDATION)
    history, future, known = windows[0]
    np.testing.assert_array_equal(history, ett[8640 - LOOKBACK : 8640].astype(np.float32))
    np.testing.assert_array_equal(future, ett[8640 : 8640 + HORIZON].astype(np.float32))
    assert known == HORIZON
    _, future, known = windows[len(windows) - 1]
    assert known == HORIZONS[0]
    np.testing.assert_array_equal(future[:96], ett[11520 - 96 : 11520].astype(np.float32))
    assert not future[96:].any()


def test_training_and_scaling_see_the_training_part_alone(ett: np.ndarray) -> None:
    """With not-a-number after row 8640, what trains and the scale stay finite; after 11520, what validates too."""
    later = ett.copy()
    later[ETT_TRAIN.stop :] = np.nan
    module = SegRNNModule(later, SETTINGS, seed=0)
    np.testing.assert_allclose(module.network.scale, ett[:8640].std(axis=0), rtol=1e-6)
    assert torch.isfinite(Windows(later, ETT_TRAIN).values).all()
    later[ETT_TRAIN.stop : ETT_VALIDATION.stop] = 0
    assert torch.isfinite(Windows(later, ETT_VALIDATION).values).all()


def test_training_windows_of_an_epoch_repeat_by_seed(ett: np.ndarray) -> None:
    """Their order depends on seed and epoch alone, so that a resumed run goes on where it stopped."""
    first, again, other = (next(iter(SegRNNModule(ett, SETTINGS, seed).train_dataloader()))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_step_weights_average_the_horizons(ett: np.ndarray) -> None:
    """Of a whole future, the weighted sum of errors is the mean over horizons of each one's mean error."""
    errors = torch.rand(2, HORIZON)
    weighted = (step_weights(torch.tensor([HORIZON, 100])) * errors).sum(1)
    assert weighted[0] == pytest.approx(np.mean([errors[0, :horizon].mean() for horizon in HORIZONS]), rel=1e-5)
    known = [errors[1, : min(horizon, 100)].sum() / horizon for horizon in HORIZONS]
    assert weighted[1] == pytest.approx(np.mean(known), rel=1e-5)


def test_a_channel_s_forecast_follows_its_shift_and_no_other_channel(network: SegRNNNetwork) -> None:
    values = walks(2, LOOKBACK)
    moved = values + torch.tensor([100.0, 0, 0, 0, 0, 0, 0])
    mean, quantiles = network(values, of_length(2, LOOKBACK), OFFSETS)
    mean_moved, quantiles_moved = network(moved, of_length(2, LOOKBACK), OFFSETS)
    # One float32 step at 100 is 7.6e-6, and the history is read with it.
    torch.testing.assert_close(mean_moved[..., 0] - 100, mean[..., 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(quantiles_moved[..., 0, :] - 100, quantiles[..., 0, :], atol=1e-4, rtol=0)
    torch.testing.assert_close(mean_moved[..., 1:], mean[..., 1:])


def test_every_segment_is_one_step_of_the_gru_from_the_encoder_s_state(network: SegRNNNetwork) -> None:
    """The step written out gives what the layer gives for a sequence of that one query."""
    states = torch.randn(2, 1, 7, 8)
    decoded = network._step(states)
    for segment, channel in ((0, 0), (4, 6), (29, 3)):
        query = torch.cat([network.position[segment], network.channel[channel]])
        outputs, _ = network.recurrent(query.expand(2, 1, -1), of_length(2, 1), (states[:, 0, channel][None],))
        torch.testing.assert_close(decoded[:, segment, channel], outputs[:, 0])


def test_quantiles_rise_whatever_the_offsets(network: SegRNNNetwork) -> None:
    for offsets in (OFFSETS, torch.zeros(len(LEVELS)), -2 * OFFSETS):
        _, quantiles = network(walks(2, LOOKBACK), of_length(2, LOOKBACK), offsets)
        assert (quantiles.diff(dim=-1) >= 0).all()


def test_quantiles_leave_no_mark_on_what_means_are_made_of(ett: np.ndarray) -> None:
    """The pinball loss reaches its own layer only."""
    module = SegRNNModule(ett, SETTINGS, seed=0)
    decoded = module.network.decoded(torch.randn(2, LOOKBACK, 7))
    module.network.quantiles_of(decoded.detach()).sum().backward()
    taught = {name for name, weight in module.network.named_parameters() if weight.grad is not None}
    assert taught == {"spread.weight", "spread.bias"}


def test_a_row_s_own_last_values_count_and_no_others() -> None:
    values = torch.arange(2.0 * 800).view(2, 800, 1)
    taken = latest(values, torch.tensor([LOOKBACK, 800], dtype=torch.int32))[..., 0]
    assert torch.equal(taken[0], torch.arange(720.0))
    assert torch.equal(taken[1], torch.arange(880.0, 1600.0))


def test_the_graph_gives_what_the_network_gives(network: SegRNNNetwork) -> None:
    """Also in batches, with junk in the padding, and for rows of which only the last values count."""
    servable = segrnn.servable(network, tuple(OFFSETS.tolist()))
    parity.measure(servable, export(servable)).require()


def test_figures_of_the_floor_s_own_forecast_are_its_floor(ett: np.ndarray) -> None:
    """A service that repeats yesterday reaches exactly what stands as floor; bounds around the truth cover all."""

    def forecast(histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert histories.shape[1:] == (LOOKBACK, 7)
        mean = histories[:, np.arange(HORIZON) % 24 - 24]
        return mean, np.stack([mean - 1e9, mean + 1e9, mean + 1e9, mean + 1e9], axis=-1)

    figures = {metric.name: metric for metric in etth1_figures(ett, forecast, stride=97)}
    assert len(figures) == 4 * len(HORIZONS)
    for horizon in HORIZONS:
        for kind in ("mse", "mae"):
            assert figures[f"etth1_test_{kind}_{horizon}"].value == figures[f"etth1_test_{kind}_{horizon}"].floor
        assert figures[f"etth1_test_coverage_80_{horizon}"].value == 0  # its bounds are both above
        assert figures[f"etth1_test_coverage_95_{horizon}"].value == 1


def test_figures_are_those_of_the_published_protocol(ett: np.ndarray) -> None:
    """The last value's error at 336, worked out at once on z-scored values."""
    scored = (ett - ett[:8640].mean(axis=0)) / ett[:8640].std(axis=0)
    starts = range(11520, 14400 - 336 + 1, 50)
    expected = np.mean([(scored[at : at + 336] - scored[at - 1]) ** 2 for at in starts])

    def forecast(histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = histories[:, -1:].repeat(HORIZON, axis=1)
        return mean, mean[..., None].repeat(4, axis=-1)

    figures = {metric.name: metric.value for metric in etth1_figures(ett, forecast, stride=50)}
    assert figures["etth1_test_mse_336"] == pytest.approx(expected, abs=1e-5)


def test_the_recipe_publishes_what_the_service_forecasts_with(
    tmp_path: Path, ett: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train one epoch, calibrate, pass parity, publish, and get through the service what the network answers."""
    monkeypatch.setattr(segrnn, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    monkeypatch.setattr(segrnn, "read_ett", lambda path: ett)
    monkeypatch.setattr(segrnn_module, "ETT_TRAIN", slice(0, 1200))
    monkeypatch.setattr(segrnn_module, "ETT_VALIDATION", slice(1200, 1600))
    recipe = find_recipe("segrnn")
    tiny = replace(recipe, settings=SETTINGS, run=recipe.run.model_copy(update={"epochs": 1}))
    module = fit(tiny, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    assert isinstance(module, SegRNNModule)
    made = tiny.release(module)

    def measure(url: str) -> tuple[Metric, ...]:
        histories = np.stack([ett[at - LOOKBACK : at] for at in (12000, 13000)])
        means, bounds = ask_segrnn(url, "segrnn", histories)
        offsets = torch.tensor(made.servable.constants["conformal_offsets"])
        with torch.no_grad():
            mean, quantiles = module.averaged(torch.from_numpy(histories).float(), of_length(2, LOOKBACK), offsets)
        np.testing.assert_allclose(means, mean, atol=1e-5)
        np.testing.assert_allclose(bounds, quantiles[..., [0, 2, 4, 6]], atol=1e-5)
        return etth1_figures(ett, lambda rows: ask_segrnn(url, "segrnn", rows), stride=500)

    manifest = read_manifest(publish(replace(made, measure=measure), tmp_path / "models", command="a test", seed=1))
    assert manifest.sequence.labels == segrnn.CHANNELS
    assert manifest.forecast is not None
    assert manifest.forecast.min_history == manifest.forecast.max_history == LOOKBACK
