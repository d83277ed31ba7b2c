"""The character model: its tokenizer, streams and network, and the recipe from a text to a served model, made tiny."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.contract.files import read_manifest
from training.catalogue import find_recipe
from training.datasets import Found
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.tasks.characters import make_tokenizer
from training.tasks.charlm import evaluation
from training.tasks.charlm import recipe as charlm
from training.tasks.charlm.evaluation import figures, frequencies
from training.tasks.charlm.module import CharModule, Corpus, Settings, Streams
from training.tasks.charlm.network import CharNetwork

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

CHARACTERS = "\n !abcT"
TEXT = "a bat!\nA cab\n" * 400


@given(st.text(st.sampled_from(CHARACTERS + "\r\té [UNK]\u0301\U0001f600")), st.data())
def test_any_cut_of_a_text_has_the_ids_of_the_whole(text, data):
    """One character is one token, whatever it is; the unknown ones share the id after the last known one."""
    tokenizer = make_tokenizer(CHARACTERS)
    ids = tokenizer.encode(text).ids
    known = {character: number for number, character in enumerate(CHARACTERS)}
    assert ids == [known.get(character, len(CHARACTERS)) for character in text]
    cut = data.draw(st.integers(0, len(text)))
    assert tokenizer.encode(text[:cut]).ids + tokenizer.encode(text[cut:]).ids == ids


def test_parts_follow_each_other():
    """Training sees neither what chooses the checkpoint nor the validation part."""
    corpus = Corpus.of("".join(chr(number) for number in range(1000)))
    assert (corpus.held_out[0], corpus.held_out[-1]) == (chr(0), chr(44))
    assert (corpus.train[0], corpus.train[-1]) == (chr(45), chr(899))
    assert (corpus.validation[0], corpus.validation[-1]) == (chr(900), chr(999))


def test_streams_go_through_the_text_once():
    """Chunk after chunk each row reads on in its own stretch, and every id but a row's first is asked for."""
    chunks = list(Streams(torch.arange(47), rows=2, chunk=5))
    assert [bool(first) for *_, first in chunks] == [True, False, False, False, False]
    assert torch.equal(torch.cat([ids for ids, *_ in chunks], 1), torch.arange(46).view(2, 23)[:, :-1])
    assert torch.equal(torch.cat([following for _, following, _ in chunks], 1), torch.arange(46).view(2, 23)[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 20, [7, 1, 12]])
def test_chunks_of_characters_equal_the_whole(sizes):
    torch.manual_seed(0)
    network = CharNetwork(7, width=4, hidden=6, layers=2, dropout=0.3, unknown_rate=0.5).eval()
    ids = torch.randint(8, (3, 20))
    whole, *last = network(ids, torch.full((3,), 20), *network.recurrent.zero_states(3))
    torch.testing.assert_close(whole.sum(-1), torch.ones(3, 20))
    carried = list(network.recurrent.zero_states(3))
    for chunk, expected in zip(ids.split(sizes, 1), whole.split(sizes, 1), strict=True):
        got, *carried = network(chunk, torch.full((3,), chunk.shape[1]), *carried)
        torch.testing.assert_close(got, expected)
    for state, expected in zip(carried, last, strict=True):
        torch.testing.assert_close(state, expected)


def test_frequencies_are_those_of_the_text():
    """Of "aab", with one added to each count: a 3 of 5; after a: a and b 2 of 4 each; after b: nothing is known."""
    single, pairs = frequencies("aab", "ab")
    np.testing.assert_allclose(single, [0.6, 0.4])
    np.testing.assert_allclose(pairs, [[0.5, 0.5], [0.5, 0.5]])


def test_figures_are_of_the_whole_validation_part(monkeypatch):
    """A model as sure of every character as of any has the logarithm of their number; calls carry the state on."""
    asked: list[tuple[str, str | None]] = []

    def answer(url, path, field, items, **options):
        (item,) = items
        asked.append((item["text"], item.get("state")))
        rows = [[1 / len(CHARACTERS)] * len(CHARACTERS)] * len(item["text"])
        return [{"outputs": {"probabilities": rows}, "state": f"after call {len(asked)}"}]

    monkeypatch.setattr(evaluation, "ask", answer)
    monkeypatch.setattr(evaluation, "CHARACTERS_PER_CALL", 10)
    corpus = Corpus(held_out="cab", train=CHARACTERS, validation="ab!T" * 6)
    by_pair, by_single = figures(corpus, "charlm", "http://service")
    assert "".join(text for text, _ in asked) == corpus.validation[:-1]
    assert [state for _, state in asked] == [None, "after call 1", "after call 2"]
    assert by_pair.value == by_single.value == pytest.approx(math.log(len(CHARACTERS)), abs=1e-5)


def test_charlm_recipe_publishes_what_the_service_steps_with(tmp_path: Path, monkeypatch):
    """Train an epoch on a text that repeats, pass parity, publish, and beat both tables through the service."""
    corpus = Corpus.of(TEXT)

    def prepare(settings: Settings, seed: int) -> CharModule:
        tiny = {"width": 8, "hidden": 24, "rows": 8, "chunk": 8, "learning_rate": 3e-2, "dropout": 0.0}
        return CharModule(settings.model_copy(update=tiny), corpus, seed)

    recipe = find_recipe("charlm")
    run = recipe.run.model_copy(update={"epochs": 2})
    recipe = replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(charlm, "find", lambda name: Found(name, tmp_path / name, "0" * 64))
    manifest = read_manifest(publish(recipe.release(module), tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable
    assert manifest.outputs[0].labels == tuple(sorted(set(TEXT)))
    for metric in manifest.provenance.metrics:
        assert metric.value < metric.floor
