"""Handwriting: words in their parts, the density of points, the network by steps, and what is trained, made tiny."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from service.errors import StartupError
from training.catalogue import find_recipe
from training.export import parity
from training.export.graph import export
from training.fit.runs import fit
from training.report.plots import save
from training.tasks.handwriting import evaluation, recognizer
from training.tasks.handwriting.data import MAX_POINTS, Word, is_sound, offsets, read_words, split, strokes_of
from training.tasks.handwriting.evaluation import figures, hidden, spread, without_text
from training.tasks.handwriting.mixture import bounded, draw, nats, parameters
from training.tasks.handwriting.module import HandwritingModule
from training.tasks.handwriting.network import HandwritingNetwork
from training.tasks.handwriting.paper import Paper
from training.tasks.handwriting.recipe import servable
from training.tasks.handwriting.recognizer import RECOGNIZER, ReaderModule
from training.tasks.handwriting.report import BIASES, WORDS, report_handwriting
from training.tasks.handwriting.writing import write

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
    return HandwritingNetwork(characters, hidden=7, layers=2, gaussians=3, components=2, dropout=0.5).eval()


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
    assert word.points.tolist() == [[20, 0, 0], [20, 0, 1], [10, 0, 0], [0, 10, 1]]
    assert [stroke.tolist() for stroke in strokes_of(word.points)] == [[[0, 0], [20, 0], [40, 0]], [[50, 0], [50, 10]]]


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


def test_a_high_bias_draws_the_likeliest_component_s_mean():
    """With bias 0 points spread as the density says."""
    raw = torch.tensor([[-50.0, 1.0, 0.0, 3.0, -3.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.8, 0.8]])
    generator = torch.Generator().manual_seed(0)
    tidy = draw(raw.expand(20, -1), 20.0, generator)
    torch.testing.assert_close(tidy, torch.tensor([[3.0, 0.5, 0.0]]).expand(20, -1))
    free = draw(raw.expand(40000, -1), 0.0, generator)
    first = free[free[:, 0] > 0]  # nearly all of the first component
    assert len(first) / len(free) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.02)
    assert float(torch.corrcoef(first[:, :2].T)[0, 1]) == pytest.approx(math.tanh(0.8), abs=0.02)


@torch.no_grad()
def test_steps_equal_the_whole_and_padding_and_neighbours_change_nothing():
    """One step at a time, alone, behind a text with junk after its end: the same as three steps of two rows."""
    network = small()
    ids, lengths = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])
    memory, points = network.alphabet(ids, lengths), torch.randn(2, 4, 3)
    whole, logits, last = network.read(points, torch.tensor([4, 4]), memory, lengths, network.zero_states(2))
    memory[1, 1:] = 7.0
    states = network.zero_states(1)
    for step in range(4):
        given = (*states, memory[1:])
        raw, chance, *carried = network(points[1:, step : step + 1], torch.tensor([1]), lengths[1:], *given)
        states = tuple(carried)
        torch.testing.assert_close(raw, whole[1:, step])
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
    measured = sorted(float(np.abs(paper.measured(row)).sum()) for row, _ in rows)
    np.testing.assert_allclose(measured, sorted(float(np.abs(word.points).sum()) for word in part), rtol=1e-5)


def test_a_recipe_trains_what_is_measured_beside_its_floor(tmp_path, monkeypatch):
    """Who is told the text foresees points better, the figures say so, and it is not published yet."""
    parts = split(words(8, 40))
    monkeypatch.setattr(evaluation, "read_parts", lambda: parts)
    monkeypatch.setattr(evaluation, "WRITTEN", 10)

    def prepare(settings, seed):
        return HandwritingModule(settings, parts["train"], parts["validation"], seed)

    def prepare_reader(settings, seed):
        return ReaderModule(parts["train"], parts["validation"], seed)

    recipe = find_recipe("handwriting")
    recipe = replace(
        recipe,
        kind=replace(recipe.kind, prepare=prepare),
        run=recipe.run.model_copy(update={"epochs": 4}),
        settings=recipe.settings.model_copy(update=TINY),
    )
    for name, value in {"HIDDEN": 24, "ROWS": 8, "LEARNING_RATE": 2e-2}.items():
        monkeypatch.setattr(recognizer, name, value)
    reader = replace(
        RECOGNIZER,
        kind=replace(RECOGNIZER.kind, prepare=prepare_reader),
        run=RECOGNIZER.run.model_copy(update={"epochs": 6}),
    )
    monkeypatch.setattr(evaluation, "RECOGNIZER", reader)
    told, read, ink = figures(recipe, tmp_path)
    assert told.value < told.floor
    assert ink.value > 0.8
    assert 0 <= read.value <= 1
    with pytest.raises(StartupError, match="cannot be published: the service does not draw from mixtures yet"):
        recipe.release(fit(recipe, seed=0, resume=True, runs_dir=tmp_path).module)


def test_hidden_words_keep_their_ink_and_a_floor_reads_no_character(monkeypatch):
    parts = split(words(8, 3))
    monkeypatch.setattr(evaluation, "read_parts", lambda: parts)
    module = without_text(find_recipe("handwriting")).prepare(0)
    assert module.network.characters == 0
    assert all(np.array_equal(a.points, b.points) for a, b in zip(hidden(parts["test"]), parts["test"], strict=True))


def test_chosen_words_are_spread_over_the_part():
    part = words(2, 50)
    assert [word.writer for word in spread(part, 10)] == ["w0"] * 5 + ["w1"] * 5


def test_a_seed_writes_the_same_again():
    """Every row ends, at the latest after the most points."""
    network, paper = small(2), Paper("ab", 30.0)
    once, again = (write(network, paper, ["ab", "b"], 1.0, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert all(len(points) <= MAX_POINTS for points in once)


def test_the_report_draws_words_and_biases(tmp_path):
    asked = []

    def writer(texts, bias):
        asked.append((tuple(texts), bias))
        return [offsets(written("ab", np.random.default_rng(0))) for _ in texts]

    for picture in report_handwriting(writer):
        assert (tmp_path / save(picture.figure, tmp_path, picture.name)).stat().st_size > 1000
    assert asked[0] == (WORDS, 1.0)
    assert [bias for _, bias in asked[1:]] == [*BIASES]
