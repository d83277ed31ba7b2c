"""The spoken digits: features, recordings and networks, and the recipe from recordings to a served model, made tiny."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from training.catalogue import find_recipe
from training.datasets import Found
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.recipe import Recipe
from training.tasks.digits import evaluation
from training.tasks.digits import recipe as digits
from training.tasks.digits.evaluation import measure, unheard_speaker
from training.tasks.digits.features import BANDS, BEFORE, FRAME, RATE, LogMel
from training.tasks.digits.module import DigitModule, Settings
from training.tasks.digits.network import DIGITS, DigitNetwork, LiveDigitNetwork
from training.tasks.digits.recordings import FULL_SCALE, Recordings, at_speed
from training.tasks.digits.voices import Disguise

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

TINY = {"channels": 2, "hidden": 12, "learning_rate": 2e-2, "dropout": 0.0, "colour": 0.0, "stripe": 0, "speed": 0.02}


def tone(hertz: float, samples: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def write_tones(file: Path, numbers: range) -> Path:
    """Write a data set of two speakers who say each digit as a tone of its own, so often as there are `numbers`."""
    said = [(digit, speaker, number) for digit in range(10) for speaker in ("ann", "bo") for number in numbers]
    signals = [tone(250 + 350 * digit, 800 + 37 * number) for digit, _, number in said]
    lengths = [len(signal) for signal in signals]
    np.savez(
        file,
        samples=(np.concatenate(signals) * FULL_SCALE).astype(np.int16),
        names=[f"{digit}_{speaker}_{number}.wav" for digit, speaker, number in said],
        starts=np.cumsum([0, *lengths[:-1]]),
        lengths=lengths,
    )
    return file


@pytest.fixture
def recordings(tmp_path: Path) -> Recordings:
    return Recordings.read(write_tones(tmp_path / "tones.npz", range(3, 14)))


def tiny(network: str) -> DigitNetwork | LiveDigitNetwork:
    torch.manual_seed(0)
    kind = LiveDigitNetwork if network == "live" else DigitNetwork
    return kind(2, 6, layers=2, dropout=0.3, disguise=Disguise(0.3, 5)).eval()


@pytest.mark.parametrize("hertz", [300, 1000, 3000])
def test_a_tone_is_loudest_in_its_own_band(hertz):
    """Bands lie evenly in mel from 60 Hz to 4 kHz."""
    frames = torch.from_numpy(tone(hertz, 10 * FRAME)).view(1, 10, FRAME)
    heard = LogMel()(frames)
    bottom, here, top = (2595 * np.log10(1 + each / 700) for each in (60, hertz, RATE / 2))
    expected = (here - bottom) / (top - bottom) * (BANDS + 1) - 1
    assert heard.shape == (1, 10 - BEFORE, BANDS)
    assert (heard.argmax(2) - expected).abs().max() < 1


def test_later_frames_do_not_change_what_was_heard():
    """What streams cannot wait: a frame's bands come from it and those before it."""
    frames = torch.randn(1, 8, FRAME)
    torch.testing.assert_close(LogMel()(frames[:, :5]), LogMel()(frames)[:, : 5 - BEFORE])


def test_parts_share_no_recording(recordings):
    """The number of a recording says its part: 0 to 4 test, 5 to 9 chooses the checkpoint, the rest is trained on."""
    numbers = {part: set(recordings.part(part).numbers) for part in ("test", "held out", "train")}
    assert numbers == {"test": {3, 4}, "held out": {5, 6, 7, 8, 9}, "train": {10, 11, 12, 13}}
    assert set(recordings.by("bo").speakers) == {"bo"}


def test_batches_hold_every_recording_as_it_is(recordings):
    """Each recording comes once, zeros behind it."""
    found = []
    for frames, lengths, said in recordings.batches(rows=7):
        for row, length, digit in zip(frames.flatten(1).numpy(), lengths.tolist(), said.tolist(), strict=True):
            assert not row[length * FRAME :].any()
            found.append((digit, row[: length * FRAME]))
    for digit, signal in zip(recordings.digits, recordings.signals, strict=True):
        padded = np.pad(signal, (0, -len(signal) % FRAME))
        assert any(digit == other and np.array_equal(padded, row) for other, row in found)
    assert len(found) == len(recordings.digits)


def test_varied_recordings_are_whole_and_differ_by_seed(recordings):
    """Every digit that was said comes once, rows are as long as their batch, samples stay within the scale."""
    once, again, other = (recordings.varied(rows=8, speed=0.2, seed=seed) for seed in (1, 1, 2))
    assert sorted(torch.cat([said for *_, said in once]).tolist()) == sorted(recordings.digits)
    for (frames, lengths, _), (same, *_) in zip(once, again, strict=True):
        assert torch.equal(frames, same)
        assert (lengths == frames.shape[1]).all()
        assert frames.abs().max() <= 1
    assert any(
        one.shape != two.shape or not torch.equal(one, two) for (one, *_), (two, *_) in zip(once, other, strict=True)
    )


def test_twice_the_speed_is_half_the_length_and_twice_the_pitch():
    np.testing.assert_allclose(at_speed(tone(200, 800), 2.0), tone(400, 400), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("network", ["whole", "live"])
def test_rows_of_unequal_length_equal_single_ones(network):
    """What stands behind a row does not matter, whatever it is."""
    found, frames, lengths = tiny(network), torch.randn(4, 9, FRAME), torch.tensor([9, 1, 2, 5], dtype=torch.int32)
    states = found.zero_states(4) if isinstance(found, LiveDigitNetwork) else ()
    alone = found.zero_states(1) if isinstance(found, LiveDigitNetwork) else ()
    together = found(frames, lengths, *states)
    for row, length in enumerate(lengths.tolist()):
        single = found(frames[row : row + 1, :length], lengths[row : row + 1], *alone)
        if isinstance(found, DigitNetwork):
            torch.testing.assert_close(together[row], single[0])
        else:
            torch.testing.assert_close(together[0][row, :length], single[0][0])
            torch.testing.assert_close(together[1][row], single[1][0])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 20, [7, 1, 12]])
def test_chunks_of_frames_equal_the_whole(sizes):
    """The live network carries the samples that its window still needs, and the LSTM's states."""
    network, frames = tiny("live"), torch.randn(3, 20, FRAME)
    whole, *last = network(frames, torch.full((3,), 20), *network.zero_states(3))
    torch.testing.assert_close(whole.sum(-1), torch.ones(3, 20))
    carried = list(network.zero_states(3))
    for chunk, expected in zip(frames.split(sizes, 1), whole.split(sizes, 1), strict=True):
        got, *carried = network(chunk, torch.full((3,), chunk.shape[1]), *carried)
        torch.testing.assert_close(got, expected)
    for state, expected in zip(carried, last, strict=True):
        torch.testing.assert_close(state, expected)


@torch.no_grad()
def test_loudness_does_not_count_for_a_whole_recording():
    """Above the floor, a recording at half its loudness has the same scores."""
    network, frames, lengths = tiny("whole"), torch.randn(2, 30, FRAME), torch.tensor([30, 30])
    torch.testing.assert_close(network(0.5 * frames, lengths), network(frames, lengths), atol=1e-3, rtol=0)


def test_a_disguise_is_worn_in_training_alone():
    disguise, bands = Disguise(0.3, 5), torch.randn(3, 20, BANDS)
    assert not torch.equal(disguise(bands), bands)
    assert torch.equal(disguise.eval()(bands), bands)


def test_figures_are_of_what_is_sent(monkeypatch, recordings):
    """Recordings go as WAV files: as they are, at a tenth of their loudness, and their first halves."""
    sent: list[np.ndarray] = []

    def answer(url, path, field, items, **options):
        for item in items:
            with wave.open(io.BytesIO(base64.b64decode(item["audio"]))) as file:
                assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
                sent.append(np.frombuffer(file.readframes(file.getnframes()), "<i2") / FULL_SCALE)
        return [{"label": "zero"} for _ in items]

    monkeypatch.setattr(evaluation, "ask", answer)
    figures = measure(recordings, "digits", "http://service")
    assert [(figure.value, figure.floor) for figure in figures] == [(pytest.approx(0.1), pytest.approx(0.1))] * 3
    count = len(recordings.signals)
    for signal, whole, soft, half in zip(recordings.signals, sent, sent[count:], sent[2 * count :], strict=False):
        np.testing.assert_allclose(whole, signal, atol=1e-7)
        np.testing.assert_allclose(soft, signal / 10, atol=1 / FULL_SCALE)
        np.testing.assert_array_equal(half, whole[: len(signal) // 2])


def tiny_recipe(name: str, recordings: Recordings) -> Recipe:
    recipe = find_recipe(name)

    def prepare(settings: Settings, seed: int) -> DigitModule:
        return DigitModule(settings, recordings.part("train"), recordings.part("held out"), seed)

    return replace(
        recipe,
        kind=replace(recipe.kind, prepare=prepare),
        settings=recipe.settings.model_copy(update=TINY),
        run=recipe.run.model_copy(update={"epochs": 12}),
    )


@pytest.mark.parametrize("name", ["digits", "digits-live"])
def test_digits_recipes_publish_what_the_service_hears_with(name: str, tmp_path: Path, monkeypatch, recordings):
    """Train on tones, pass parity, publish, and tell the tones apart through the service."""
    recipe = tiny_recipe(name, recordings)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(digits, "find", lambda name: Found(name, tmp_path / "tones.npz", "0" * 64))
    manifest = read_manifest(publish(recipe.release(module), tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable == (name == "digits-live")
    assert manifest.outputs[0].labels == DIGITS
    assert manifest.signal is not None
    assert manifest.signal.sample_rate == RATE
    figures = {metric.name: metric for metric in manifest.provenance.metrics}
    whole = figures["fsdd_test_accuracy"]
    assert whole.value > 2 * whole.floor


def test_a_speaker_left_out_is_neither_trained_on_nor_chooses_the_checkpoint(tmp_path: Path, recordings):
    """The tones of "bo" are those of "ann", so that who heard one knows the other, and nothing else was read."""
    recipe = tiny_recipe("digits", recordings)
    accuracy = unheard_speaker(recipe, recordings, "bo", tmp_path / "runs")
    module = fit(tiny_recipe("digits", recordings.by("ann")), seed=0, resume=False, runs_dir=tmp_path / "other").module
    with torch.no_grad():
        right = [
            module.scores(frames, lengths).argmax(1) == said
            for frames, lengths, said in recordings.by("bo").batches(64)
        ]
    assert accuracy == pytest.approx(float(torch.cat(right).float().mean()))
    assert accuracy > 0.2
