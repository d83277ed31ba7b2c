"""The tagger: how text is split and spelt, its network, and the recipe from sentences to a served model, made tiny."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from service.contract.parts import Characters
from service.model.vocabulary import Vocabulary as Served
from training.catalogue import find_recipe
from training.datasets import Found
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.tasks.tagger import evaluation
from training.tasks.tagger import recipe as tagger
from training.tasks.tagger.evaluation import figures, frequent_tags
from training.tasks.tagger.module import Settings, TaggerModule
from training.tasks.tagger.network import Spelling, TaggerNetwork, Words
from training.tasks.tagger.text import (
    NO_TARGET,
    Sentences,
    Speller,
    Tags,
    Treebank,
    Vocabulary,
    make_tokenizer,
    read_sentences,
    split_words,
)

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

SENTENCES = [
    [("The", "DET", "DT"), ("cat", "NOUN", "NN"), ("sleeps", "VERB", "VBZ"), (".", "PUNCT", ".")],
    [("The", "DET", "DT"), ("dog", "NOUN", "NN"), ("do", "AUX", "VBP"), ("n't", "PART", "RB"), ("run", "VERB", "VB")],
    [("Run", "VERB", "VB"), (",", "PUNCT", ","), ("dog", "NOUN", "NN"), ("!", "PUNCT", ".")],
]
NEW = [("The", "DET", "DT"), ("bird", "NOUN", "NN")]
RNG = np.random.default_rng(0)
VECTORS = {word: RNG.normal(size=4).astype(np.float16) for word in ("the", "cat", "dog", "well-known", "run")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I don't like it. It's bad!", "I do n't like it . It 's bad !"),
        ("Don\u2019t ask \u201cwhy\u201d\u2026", "Do n\u2019t ask \u201c why \u201d \u2026"),
        ("He cannot, and we're gonna", "He can not , and we 're gon na"),
        ("Mr. Smith's U.S. car (at 5pm) cost $4.5", "Mr. Smith 's U.S. car ( at 5 pm ) cost $ 4.5"),
        ("See http://a.org/x?y=1, or mail me@a.org.", "See http://a.org/x?y=1 , or mail me@a.org ."),
        ("a well-known e-mail of 12/3/2004 :-) wow!!!", "a well - known e-mail of 12/3/2004 :-) wow !!!"),
    ],
)
def test_text_is_split_as_the_treebank_does(text, words):
    """Each token stands in the text where its offsets say, in any case, and nothing but white space is left out."""
    for written in (text, text.upper()):
        offsets = make_tokenizer(()).encode(written).offsets
        assert [written[start:end] for start, end in offsets] == (words if written == text else words.upper()).split()


def test_training_spells_words_as_the_service_does():
    """Ids, characters, and the cut of a long word; a word that is split has a row for each piece."""
    characters = Characters(alphabet="abcdefghijk'T", width=6)
    tokenizer = make_tokenizer(["the", "do", "n't", "bed"])
    words = ["The", "don't", "bed", "abcdefghijk", "é"]
    rows, places = Speller(tokenizer, characters).spell(words)
    served = Served(tokenizer, 0, characters)
    (encoding,) = served.encode([words], marked=False, placed=True)
    np.testing.assert_array_equal(rows, served.steps(words, encoding, 100, "int32"))
    assert places == [0, 1, 1, 2, 3, 4]
    assert rows[:, 0].tolist() == [1, 2, 3, 4, 0, 0]
    assert rows[4].tolist() == [0, 2, 3, 4, 10, 11, 12]  # abc and ijk


def test_a_treebank_file_is_read_sentence_by_sentence(tmp_path: Path):
    file = tmp_path / "part.tsv.gz"
    lines = ["\n".join("\t".join(word) for word in sentence) for sentence in SENTENCES]
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.write("\n\n".join(lines) + "\n\n")
    assert read_sentences(file) == SENTENCES


def test_frequent_words_come_first_and_words_that_the_tokenizer_splits_are_left_out():
    """The words that occur twice have a vector of their own; what has none from elsewhere has zeros."""
    vocabulary = Vocabulary.of(SENTENCES, VECTORS)
    ids = vocabulary.tokenizer.get_vocab()
    assert sorted(ids, key=ids.__getitem__) == ["[UNK]", "the", "dog", "run", "cat"]
    assert vocabulary.counts.tolist() == [0, 2, 2, 2]
    np.testing.assert_array_equal(vocabulary.vectors[ids["cat"]], VECTORS["cat"])
    assert not vocabulary.vectors[ids["[UNK]"]].any()
    assert split_words(vocabulary.tokenizer, [[("well-known", "ADJ", "JJ"), ("dog", "NOUN", "NN")]]) == 1


def test_later_pieces_and_unknown_tags_are_no_targets():
    tags = Tags.of(SENTENCES)
    speller = Speller(make_tokenizer(()), Characters(alphabet="a", width=2))
    sentences = Sentences.of([[("don't", "VERB", "VB"), ("x", "X", "FW")]], speller, tags)
    verb = [tags.coarse.index("VERB"), tags.fine.index("VB")]
    assert sentences.targets[0].tolist() == [verb, [NO_TARGET] * 2, [NO_TARGET] * 2]


def test_a_batch_holds_sentences_of_one_length():
    speller = Speller(make_tokenizer(()), Characters(alphabet="a", width=2))
    sentences = Sentences.of(SENTENCES * 5, speller, Tags.of(SENTENCES))
    batches = sentences.batches(9, torch.Generator().manual_seed(0))
    assert sorted(tuple(rows.shape[:2]) for rows, _ in batches) == [(1, 5)] * 5 + [(2, 4)] * 5


def tiny(bidirectional: bool) -> TaggerNetwork:
    """An untrained network of 7 words, with 5 ids of characters and 3 characters of a word."""
    torch.manual_seed(0)
    settings = {"character_width": 3, "filters": 2, "word_width": 3, "hidden": 5, "bidirectional": bidirectional}
    settings = find_recipe("tagger").settings.model_copy(update=settings)
    assert isinstance(settings, Settings)
    vocabulary = Vocabulary(make_tokenizer(()), torch.randn(7, 4).half(), torch.tensor([0, 5, 2]))
    return settings.make(vocabulary, 3, Tags(("A", "B"), ("C", "D", "E"))).eval()


def drawn(rows: int, time: int) -> torch.Tensor:
    return torch.cat([torch.randint(7, (rows, time, 1)), torch.randint(5, (rows, time, 3))], 2)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 20, [7, 1, 12]])
def test_chunks_of_words_equal_the_whole(sizes):
    network = tiny(bidirectional=False)
    rows = drawn(3, 20)
    states = network.recurrent.zero_states(3)
    whole, *last = network(rows, torch.full((3,), 20), *states)
    torch.testing.assert_close(whole.sum(-1), torch.ones(3, 20))
    for chunk, expected in zip(rows.split(sizes, 1), whole.split(sizes, 1), strict=True):
        got, *states = network(chunk, torch.full((3,), chunk.shape[1]), *states)
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(states, last)


@torch.no_grad()
def test_a_sentence_has_the_same_tags_beside_longer_ones():
    network = tiny(bidirectional=True)
    rows, lengths = drawn(3, 9), torch.tensor([4, 9, 1])
    (together,) = network(rows, lengths)
    for row, length, scores in zip(rows, lengths, together, strict=True):
        (alone,) = network(row[None, :length], length[None])
        torch.testing.assert_close(alone[0], scores[:length])


def test_training_hides_words_and_never_their_spelling():
    """With every word hidden what is left of it is how it is spelt."""
    words = Words(torch.randn(7, 4).half(), torch.tensor([0, 5, 2]), 3, Spelling(5, 3, 2), unknown=1.0)
    rows = drawn(2, 6)
    hidden, seen = words.train()(rows), words.eval()(rows)
    torch.testing.assert_close(hidden[..., 7:], seen[..., 7:])
    blank = torch.cat([words.vectors[0].float(), words.own.weight[0]])
    torch.testing.assert_close(hidden[..., :7], blank.expand(2, 6, 7))


def test_figures_are_of_all_words_and_of_those_that_train_does_not_hold(monkeypatch):
    """A model that answers NOUN is right for two words of three; the floor takes new words for PUNCT."""
    part = [[("The", "DET", "DT"), ("bird", "NOUN", "NN"), ("run", "NOUN", "NN")]]

    def answer(url, path, field, items, **options):
        assert (path, items) == ("/v1/tag", [{"tokens": ["The", "bird", "run"]}])
        return [{"tokens": [{"label": "NOUN"}] * 3}]

    monkeypatch.setattr(evaluation, "ask", answer)
    known, other = frequent_tags(SENTENCES)
    assert (known["the"], known["run"], other) == ("DET", "VERB", "PUNCT")
    overall, unseen = figures("tagger", SENTENCES, {"test": part}, "http://service")
    assert (overall.value, overall.floor) == pytest.approx((2 / 3, 1 / 3))
    assert (unseen.value, unseen.floor) == (1, 0)


@pytest.mark.parametrize("name", ["tagger", "tagger-live"])
def test_tagger_recipes_publish_what_the_service_tags_with(name: str, tmp_path: Path, monkeypatch):
    """Train on sentences that repeat, pass parity, publish, and beat the table of tags through the service."""

    def prepare(settings: Settings, seed: int) -> TaggerModule:
        small = {"word_width": 8, "filters": 4, "hidden": 16, "learning_rate": 1e-2, "averaging": 0.0, "tokens": 9}
        settings = settings.model_copy(update=small)
        return TaggerModule(settings, Treebank(SENTENCES * 20, SENTENCES, VECTORS), seed)

    recipe = find_recipe(name)
    run = recipe.run.model_copy(update={"epochs": 4})
    recipe = replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(tagger, "find", lambda part: Found(part, tmp_path / part, "0" * 64))
    monkeypatch.setattr(tagger, "read_sentences", lambda path: SENTENCES if "train" in path.name else [*SENTENCES, NEW])
    manifest = read_manifest(publish(recipe.release(module), tmp_path / "models", command="a test", seed=1))
    assert manifest.streamable == (name == "tagger-live")
    assert manifest.text is not None
    assert manifest.text.characters is not None
    for metric in manifest.provenance.metrics:
        assert metric.value >= metric.floor
