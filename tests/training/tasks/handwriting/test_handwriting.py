"""Handwriting: words in their parts, the density of points, the network by steps, and what is trained, made tiny."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from service.contract.files import read_manifest
from service.errors import StartupError
from training.catalogue import find_recipe
from training.datasets import FILES, VARIABLE, PublicFile, sha256_of
from training.evaluate import serving
from training.export import parity
from training.export.graph import export
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.report.plots import save
from training.tasks.handwriting import evaluation, recognizer
from training.tasks.handwriting.data import (
    MAX_POINTS,
    MM,
    Word,
    is_sound,
    offsets,
    read_parts,
    read_words,
    split,
    strokes_of,
)
from training.tasks.handwriting.data import WORDS as WORDS_FILE
from training.tasks.handwriting.evaluation import hidden, nats_per_point, spread, without_text, write
from training.tasks.handwriting.mixture import bounded, measured, nats, parameters
from training.tasks.handwriting.network import HandwritingNetwork
from training.tasks.handwriting.paper import Paper
from training.tasks.handwriting.recipe import servable
from training.tasks.handwriting.recognizer import RECOGNIZER
from training.tasks.handwriting.report import report_handwriting

TINY = {"hidden": 24, "layers": 2, "gaussians": 2, "components": 2, "dropout": 0.0, "rows": 8, "learning_rate": 2e-2}
UPWARDS = {"a": 30.0, "b": -30.0}  # a letter of these tests is a straight stroke


def written(text: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the strokes of a text. Shapes: each [6, 2]."""
    path = np.arange(6)[:, None]
    strokes = [path * [6.0, UPWARDS[letter]] + [60.0 * place, 0] for place, letter in enumerate(text)]
    return [(stroke + rng.normal(0, 1, stroke.shape)).astype(np.float32) for stroke in strokes]


def words(writers: int, each: int) -> list[Word]:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(["a", "b"], 2)) for _ in range(writers * each)]
    return [
        Word(f"w{place // each}", text, offsets([np.repeat(stroke, 2, 0) for stroke in written(text, rng)]))
        for place, text in enumerate(texts)
    ]


def small(characters: int = 5) -> HandwritingNetwork:
    torch.manual_seed(0)
    return HandwritingNetwork(characters, unit=0.6, hidden=7, layers=2, gaussians=3, components=2, dropout=0.5).eval()


def test_words_are_read_as_offsets_of_every_second_point(tmp_path):
    """The first point is the origin, each stroke's last one stays, and a pen that rests gives no points."""
    first = [[0, 0], [9, 9], [20, 0], [21, 1], [22, 2], [30, 9], [40, 0]]  # every second one: 0, 20, (22), 40
    second = [[50, 0], [99, 9], [50, 10]]
    strokes = [np.array(stroke).ravel().tolist() for stroke in (first, second)]
    file = tmp_path / "words.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.write(json.dumps({"writer": "w", "text": "hi", "strokes": strokes}) + "\n")
    (word,) = read_words(file)
    assert (word.writer, word.text) == ("w", "hi")
    mm = np.array([MM, MM, 1], np.float32)
    np.testing.assert_allclose(word.points, mm * [[20, 0, 0], [20, 0, 1], [10, 0, 0], [0, 10, 1]], rtol=1e-6)
    one, other = strokes_of(word.points)
    np.testing.assert_allclose(one / MM, [[0, 0], [20, 0], [40, 0]], rtol=1e-6)
    np.testing.assert_allclose(other / MM, [[50, 0], [50, 10]], rtol=1e-6)


def test_no_writer_is_in_two_parts():
    """Of eight writers the fourth is for test, the eighth chooses the checkpoint; odd words are in no part."""
    all_words = words(8, 3)
    dot, endless = (replace(all_words[0], points=np.zeros((n, 3), np.float32)) for n in (1, MAX_POINTS + 1))
    parts = split([dot, *all_words, endless])
    assert {word.writer for word in parts["test"]} == {"w3"}
    assert {word.writer for word in parts["validation"]} == {"w7"}
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [18, 3, 3]
    assert not is_sound(dot)
    assert not is_sound(endless)


def test_nats_are_those_of_the_mixture_and_of_the_stroke_s_end():
    """As PyTorch's distributions have them, from means, deviations and correlations."""
    torch.manual_seed(0)
    raw, points = torch.randn(50, parameters(3)), torch.randn(50, 3)
    points[:, 2] = (points[:, 2] > 0).float()
    end, weights, right, up, over, along, turn = raw.split([1, 3, 3, 3, 3, 3, 3], 1)
    across = turn.tanh() * (over + along).exp()
    covariance = torch.stack([over.mul(2).exp(), across, across, along.mul(2).exp()], 2).unflatten(2, (2, 2))
    each = MultivariateNormal(torch.stack([right, up], 2), covariance)
    moved = MixtureSameFamily(Categorical(logits=weights), each).log_prob(points[:, :2])
    expected = -moved - Bernoulli(logits=end[:, 0]).log_prob(points[:, 2])
    torch.testing.assert_close(nats(raw, points), expected, rtol=1e-4, atol=1e-4)


def test_extreme_parameters_are_bounded():
    """A density has no peak sharper than the tablet's grid, whatever the network says."""
    raw = torch.full((1, parameters(1)), -100.0)
    point = torch.tensor([[-100.0, -100.0, 0.0]])
    assert -10 < nats(bounded(raw), point) < 0


def test_measured_parameters_are_the_same_density_on_larger_paper():
    """A density in units of 3 is 9 times lower at points that are 3 times as large."""
    torch.manual_seed(0)
    raw, points = torch.randn(50, parameters(3)), torch.randn(50, 3)
    points[:, 2] = 0
    wide = nats(measured(raw, 3.0), points * torch.tensor([3.0, 3.0, 1.0]))
    torch.testing.assert_close(wide, nats(raw, points) + 2 * math.log(3.0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_steps_equal_the_whole_and_padding_and_neighbours_change_nothing():
    """One step at a time, alone, in millimetres, behind a text with junk after its end: as four steps of two rows."""
    network = small()
    ids, lengths = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])
    memory, points = network.alphabet(ids, lengths), torch.randn(2, 4, 3)
    whole, logits, last = network.read(points, torch.tensor([4, 4]), memory, lengths, network.zero_states(2))
    memory[1, 1:] = 7.0
    millimetres = points * torch.tensor([network.unit, network.unit, 1.0])
    states = network.zero_states(1)
    for step in range(4):
        given = (*states, memory[1:])
        raw, chance, *carried = network(millimetres[1:, step : step + 1], torch.tensor([1]), lengths[1:], *given)
        states = tuple(carried)
        torch.testing.assert_close(raw, measured(whole[1:, step], network.unit))
        torch.testing.assert_close(chance, logits[1:, step : step + 1].sigmoid())
    for state, declared, expected in zip(states, network.states, last, strict=True):
        torch.testing.assert_close(state.squeeze(declared.batch_axis), expected.select(declared.batch_axis, 1))


@torch.no_grad()
def test_the_window_goes_forward_alone_and_sees_no_unknown_character():
    network = small()
    points, nine, two = torch.randn(1, 9, 3), torch.tensor([9]), torch.tensor([2])
    unknown, fresh = network.alphabet(torch.tensor([[5, 5]]), two), network.zero_states(1)
    *_, seen, places = network(points, nine, two, *fresh, unknown)
    assert bool((places > 0).all())
    assert bool((seen == 0).all())
    *_, further = network(points, nine, two, *fresh[:-1], places, unknown)
    assert bool((further > places).all())


def test_one_step_and_the_text_are_graphs_that_give_what_pytorch_gives():
    """Each layer is a single node; rows whose texts differ in length share a run, whatever pads them."""
    model = servable(small())
    step, start = export(model), export(model.start.graph)
    parity.measure(model, step, start).require()


def test_batches_hold_every_word_once_in_the_network_s_unit():
    part = words(3, 5)
    paper = Paper.of(part)
    assert paper.characters == "ab"
    batches = paper.batches(part, 4, torch.Generator().manual_seed(0))
    assert [len(points) for points, *_ in batches].count(4) == 3
    rows = [(row[:n], ids[:size]) for batch in batches for row, n, ids, size in zip(*batch, strict=True)]
    found = {"".join(paper.characters[place] for place in ids) for _, ids in rows}
    assert found == {word.text for word in part}
    unit = torch.tensor([paper.scale, paper.scale, 1])
    drawn = sorted(float((row * unit).abs().sum()) for row, _ in rows)
    np.testing.assert_allclose(drawn, sorted(float(np.abs(word.points).sum()) for word in part), rtol=1e-5)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A file of made-up words, in the place of the data set."""
    file = tmp_path / "data" / WORDS_FILE
    file.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with gzip.open(file, "wt") as lines:
        for place in range(8 * 16):
            text = "".join(rng.choice(["a", "b"], 2))
            strokes = [np.repeat(stroke, 2, 0).ravel().tolist() for stroke in written(text, rng)]
            lines.write(json.dumps({"writer": f"w{place // 16}", "text": text, "strokes": strokes}) + "\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    monkeypatch.setitem(FILES, WORDS_FILE, PublicFile(sha256_of(file), "made up"))


@pytest.fixture
def tiny(made_up, tmp_path, monkeypatch):
    """The recipe, its floor and its recogniser, all tiny, and the folder of the runs."""
    monkeypatch.setattr(evaluation, "trained", partial(evaluation.trained, runs_dir=tmp_path / "runs"))
    monkeypatch.setattr(evaluation, "WRITTEN", 5)
    monkeypatch.setattr(evaluation, "MAX_POINTS", 30)
    run = evaluation.FLOOR_RUN.model_copy(update={"epochs": 8})
    monkeypatch.setattr(evaluation, "FLOOR_RUN", run)
    for name, value in {"HIDDEN": 24, "ROWS": 8, "LEARNING_RATE": 2e-2}.items():
        monkeypatch.setattr(recognizer, name, value)
    reader = replace(RECOGNIZER, run=RECOGNIZER.run.model_copy(update={"epochs": 8}))
    monkeypatch.setattr(evaluation, "RECOGNIZER", reader)
    recipe = find_recipe("handwriting")
    return replace(recipe, run=run, settings=recipe.settings.model_copy(update=TINY))


def test_a_recipe_trains_what_is_served_and_measured_beside_its_floor(tiny, tmp_path):
    """Who is told the text foresees points better; what PyTorch finds likely, the service does; the report draws."""
    trained = fit(tiny, seed=0, resume=False, runs_dir=tmp_path / "runs").module
    directory = publish(tiny.release(trained), tmp_path / "models", command="test")
    manifest = read_manifest(directory)
    told, read, ink = manifest.provenance.metrics
    assert told.value < told.floor
    assert told.value == pytest.approx(nats_per_point(trained, read_parts()["test"]), abs=1e-4)
    assert ink.value > 0.8
    assert 0 <= read.value <= 1
    with serving(tmp_path / "models") as url:
        once, again = (write(url, "handwriting", ["ab", "b"], 1.0) for _ in range(2))
        pictures, _ = report_handwriting(url, manifest)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    for picture in pictures:
        assert (tmp_path / save(picture.figure, tmp_path, picture.name)).stat().st_size > 1000


def test_of_a_row_without_points_nothing_is_read(made_up):
    """And its neighbours are read as alone."""
    reader = RECOGNIZER.prepare(0).eval()
    row, blank = read_parts()["test"][0].points, np.zeros((0, 3), np.float32)
    assert reader.read([blank, row]) == ["", *reader.read([row])]
    assert [stroke.shape for stroke in strokes_of(blank)] == [(1, 2)]


def test_hidden_words_keep_their_ink_and_a_floor_reads_no_character(made_up):
    parts = read_parts()
    module = without_text(find_recipe("handwriting").settings).prepare(0)
    assert module.network.characters == 0
    assert all(np.array_equal(a.points, b.points) for a, b in zip(hidden(parts["test"]), parts["test"], strict=True))


def test_the_floor_is_trained_as_the_model_is():
    recipe = find_recipe("handwriting")
    assert without_text(recipe.settings).run == recipe.run


@pytest.mark.parametrize("judge", [RECOGNIZER, without_text(find_recipe("handwriting").settings)])
def test_what_judges_is_not_published(judge):
    with pytest.raises(StartupError, match="not published"):
        judge.release(None)


def test_chosen_words_are_spread_over_the_part():
    part = words(2, 50)
    assert [word.writer for word in spread(part, 10)] == ["w0"] * 5 + ["w1"] * 5
