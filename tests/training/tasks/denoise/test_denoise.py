"""The denoisers: parts and mixtures, the filters beside them, the network's promises, and the recipes made tiny."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.files import read_manifest
from service.contract.provenance import Metric
from training.catalogue import find_recipe
from training.datasets import VARIABLE, Found
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.tasks.denoise import filters
from training.tasks.denoise import recipe as denoise
from training.tasks.denoise.data import (
    KINDS,
    MINUTE,
    RATE,
    RATIOS,
    Case,
    Signals,
    cases,
    mixed,
    noise_power,
    output_ratio,
    read_part,
    signal_power,
    split_records,
    without_wander,
)
from training.tasks.denoise.evaluation import ask_denoise, figures
from training.tasks.denoise.filters import Tuned
from training.tasks.denoise.module import DenoiseModule, Drawing, Settings
from training.tasks.denoise.network import DenoiseNetwork

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

SECONDS = np.arange(MINUTE) / RATE
BEATS = np.exp(-((SECONDS % 0.8 - 0.4) ** 2) / 2e-4)


@pytest.fixture
def signals() -> Signals:
    """Two records of beats, and noise of each kind."""
    rng = np.random.default_rng(0)
    noise = {kind: rng.normal(size=2 * MINUTE) for kind in KINDS}
    return Signals({"a": BEATS - BEATS.mean(), "b": 2 * (BEATS - BEATS.mean())}, noise)


def network(*, bidirectional: bool) -> DenoiseNetwork:
    torch.manual_seed(0)
    made = DenoiseNetwork(36, 12, 8, 2, bidirectional).eval()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return made


def of_length(rows: int, length: int) -> torch.Tensor:
    return torch.full((rows,), length, dtype=torch.int32)


def test_no_part_holds_a_record_of_another() -> None:
    names = [str(number) for number in range(100, 148)]
    parts = split_records(names)
    assert sorted(name for part in parts.values() for name in part) == names
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [34, 4, 10]


def test_the_parts_of_the_real_data_are_apart(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records by name; noise by stretches that follow each other, of half an hour in all; one person in one part."""
    monkeypatch.setenv(VARIABLE, str(data_dir))
    train, validation, test = (read_part(part) for part in ("train", "validation", "test"))
    assert len({*train.records, *validation.records, *test.records}) == 48
    assert {"201", "202"} <= set(train.records)
    for kind in KINDS:
        assert sum(len(part.noise[kind]) for part in (train, validation, test)) == 650_000


@settings(deadline=None)  # the first example pays for the mixture
@given(st.sampled_from(RATIOS), st.floats(0.01, 100), st.floats(-5, 5))
def test_noise_is_mixed_at_the_ratio_that_is_asked_for(ratio: int, size: float, level: float) -> None:
    """Beats of height 1 have the power 1/8; the noise is what a second of it varies by."""
    noisy = mixed(BEATS, level + size * np.sin(20 * SECONDS), ratio)
    assert signal_power(BEATS) == pytest.approx(1 / 8, rel=1e-3)
    assert 10 * np.log10(1 / 8 / noise_power(noisy - BEATS)) == pytest.approx(ratio, abs=0.01)


def test_cases_have_every_record_in_every_kind_of_noise_at_every_ratio(signals: Signals) -> None:
    made = list(cases(signals, 10 * RATE))
    assert [(case.record, case.kind, case.ratio) for case in made] == [
        (record, kind, ratio) for record in "ab" for kind in KINDS for ratio in RATIOS
    ]
    for case in made:
        found = signal_power(case.clean) / noise_power(case.noisy - case.clean)
        assert 10 * np.log10(found) == pytest.approx(case.ratio, abs=0.01)


def test_a_clean_record_has_no_wander_and_its_beats_stay_where_they_are() -> None:
    filtered = without_wander(BEATS + 3 + np.sin(0.2 * np.pi * SECONDS))
    assert abs(filtered.mean()) < 0.01
    inner = slice(10 * RATE, 50 * RATE)
    assert np.abs(filtered[inner] - (BEATS - BEATS.mean())[inner]).max() < 0.2
    assert filtered[inner].argmax() % (0.8 * RATE) == BEATS[inner].argmax() % (0.8 * RATE)


def test_tuning_takes_the_best_point_of_each_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a slow wave, and of two choices each, the cut above the wave wins, and so do details that are kept."""
    clean = np.sin(2 * np.pi * 5 * SECONDS)
    case = Case("a", "bw", 0, clean, clean + np.sin(2 * np.pi * 0.2 * SECONDS))
    few = {"LOW_HZ": (0.1, 1.0), "HIGH_HZ": (100,), "TAPS": (1441,), "ORDERS": (2,)}
    few |= {"WAVELETS": ("sym8",), "LEVELS": (4, 8), "SHARES": (0.1,)}
    for name, values in few.items():
        monkeypatch.setattr(filters, name, values)
    chosen = filters.tuned([case])
    assert [each.name.split()[0] for each in chosen] == ["FIR", "IIR", "wavelet"]
    assert " 1.0 to 100 Hz" in chosen[0].name
    assert " 1.0 to 100 Hz" in chosen[1].name
    assert " 8 levels" in chosen[2].name
    for each in chosen:
        assert output_ratio(case.clean, each.apply(case.noisy)) > 10


def test_figures_are_means_of_the_cases_beside_the_best_filter(signals: Signals) -> None:
    """An answer that halves what the noise adds gains 6.02 dB; the better of two filters is the floor."""
    made = list(cases(signals, 10 * RATE))
    truth = {case.noisy.tobytes(): case.clean for case in made}

    def towards(share: float, noisy: np.ndarray) -> np.ndarray:
        clean = truth[noisy.tobytes()]
        return clean + share * (noisy - clean)

    kept = Tuned("kept", lambda noisy: noisy)
    worse = Tuned("worse", lambda noisy: towards(2.0, noisy))
    found = {metric.name: metric for metric in figures(made, lambda noisy: towards(0.5, noisy), (worse, kept))}
    assert list(found) == [
        "test_output_snr",
        *(f"test_output_snr_at_{ratio}_db" for ratio in RATIOS),
        *(f"test_output_snr_in_{kind}" for kind in KINDS),
    ]
    for metric in found.values():
        assert metric.value - metric.floor == pytest.approx(6.02, abs=0.01)
        assert metric.floor_method.startswith("kept")


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 50, [7, 1, 42]])
def test_chunks_of_a_stream_equal_the_whole(sizes: list[int]) -> None:
    live, signal = network(bidirectional=False), torch.randn(3, 50, 36).cumsum(2)
    whole, *last = live(signal, of_length(3, 50))
    carried = list(live.zero_states(3))
    for chunk, expected in zip(signal.split(sizes, 1), whole.split(sizes, 1), strict=True):
        got, *carried = live(chunk, of_length(3, chunk.shape[1]), *carried)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    for state, expected in zip(carried, last, strict=True):
        torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_level_changes_nothing(bidirectional: bool) -> None:
    made, signal = network(bidirectional=bidirectional), torch.randn(2, 40, 36)
    answer, *_ = made(signal, of_length(2, 40))
    moved, *_ = made(signal + 5, of_length(2, 40))
    torch.testing.assert_close(moved, answer, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("bidirectional", [True, False])
def test_what_stands_beyond_a_row_changes_nothing(bidirectional: bool) -> None:
    made, signal = network(bidirectional=bidirectional), torch.randn(2, 40, 36)
    lengths = torch.tensor([40, 13], dtype=torch.int32)
    spoilt = signal.clone()
    spoilt[1, 13:] = float("nan")
    alone, *_ = made(signal[1:, :13], of_length(1, 13))
    torch.testing.assert_close(made(spoilt, lengths)[0][1, :13], alone[0], atol=1e-5, rtol=1e-5)


def test_windows_are_drawn_by_the_seed(signals: Signals) -> None:
    drawing = Drawing(signals, 10 * RATE)
    first, again, other = (drawing.windows(seed, 3, 36).tensors[0] for seed in (1, 1, 2))
    assert first.shape == (3, 100, 36)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("live", [False, True])
def test_a_recipe_publishes_what_the_service_denoises_with(
    live: bool, signals: Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three short epochs, parity, and an output ratio above the input's through the service; in one direction too."""
    name = "tiny-denoise"
    made = list(cases(signals, 10 * RATE))

    def prepare(settings: Settings, seed: int) -> DenoiseModule:
        tiny = {"features": 12, "hidden": 8, "windows": 32, "seconds": 6, "rows": 4, "learning_rate": 1e-2}
        return DenoiseModule(settings.model_copy(update=tiny), signals, signals, seed)

    def measure(url: str) -> tuple[Metric, ...]:
        return figures(made, partial(ask_denoise, url, name), (Tuned("none", lambda noisy: noisy),))

    recipe = find_recipe("denoise")
    recipe = replace(
        recipe,
        name=name,
        kind=replace(recipe.kind, prepare=prepare),
        run=recipe.run.model_copy(update={"epochs": 3}),
        settings=recipe.settings.model_copy(update={"bidirectional": not live}),
    )
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(denoise, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    release = replace(recipe.release(module), measure=measure)
    manifest = read_manifest(publish(release, tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable == live
    overall, *_ = manifest.provenance.metrics
    assert overall.value > overall.floor
