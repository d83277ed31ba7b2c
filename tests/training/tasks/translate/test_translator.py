"""The translator: its tokenizers, its batches, its network, its figures, and the recipe from pairs to a served model,
made tiny."""

from __future__ import annotations

import copy
import gzip
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.files import read_manifest
from training.catalogue import find_recipe
from training.datasets import Found
from training.evaluate import ask, serving
from training.fit.runs import fit
from training.publish.model_directory import publish
from training.tasks.translate import evaluation, report
from training.tasks.translate import recipe as translate
from training.tasks.translate.evaluation import WordTable, by_sentence, figures
from training.tasks.translate.module import Seen, Settings, TranslateModule
from training.tasks.translate.network import Decoder, Encoder, Translator
from training.tasks.translate.recipe import read_pairs
from training.tasks.translate.text import (
    END,
    END_ID,
    START_ID,
    Pairs,
    learn_source,
    learn_target,
)
from training.tasks.writer import NO_TARGET

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

PAIRS = [
    ("Is he here?", "Est-il ici\u202f?"),
    ("Is she here?", "Est-elle ici ?"),
    ("He isn't here.", "Il n'est pas ici."),
    ("I see the friend of my sister.", "Je vois l\u2019ami de ma sœur."),
    ("I see the friend of my sister.", "Je vois l'amie de ma sœur."),
]
SMALLEST = 300  # tokens, 256 of which are bytes


def tokenizers():
    read, written = zip(*PAIRS, strict=True)
    return learn_source(read, SMALLEST), learn_target(written, SMALLEST)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Qu'est-ce que c'est ?", "Qu'est-ce que c'est ?"),
        ("L\u2019ami\u00a0: «\u202fOui\u2009!\u202f»", "L'ami : « Oui ! »"),
        ("  e\u0301te\u0301  \U0001f600\n", "  été  \U0001f600\n"),
    ],
)
def test_a_translation_decodes_to_itself(written: str, read: str) -> None:
    """Case, spaces and what train does not hold stay; only what typists spell in different ways is spelt in one."""
    _, target = tokenizers()
    assert target.decode(target.encode(written, add_special_tokens=False).ids) == read


def test_a_text_that_is_read_ends_with_a_mark() -> None:
    source, _ = tokenizers()
    assert source.encode("Is he here?").tokens[-1] == END
    assert source.encode("Is he here?").ids[-1] == END_ID


def test_a_batch_holds_sources_of_one_length_and_what_follows_each_token() -> None:
    """Every pair is in one batch; no batch has more tokens than asked for, padding included."""
    pairs = Pairs.of(PAIRS, *tokenizers())
    batches = pairs.batches(40, torch.Generator().manual_seed(0))
    assert sum(len(source) for source, _, _ in batches) == len(PAIRS)
    for source, ids, following in batches:
        assert ids.numel() <= 40
        assert ((source == END_ID).sum(1) == 1).all()
        assert (ids[:, 0] == START_ID).all()
        written = following != NO_TARGET
        assert torch.equal(ids[:, 1:][written[:, 1:]], following[:, :-1][written[:, 1:]])
        assert (following[range(len(ids)), written.sum(1) - 1] == END_ID).all()


def tiny() -> Translator:
    torch.manual_seed(0)
    encoder = Encoder(11, 6, 4, layers=1, decoder=5, dropout=0.1)
    return Translator(encoder, Decoder(13, 6, 5, encoder.features, dropout=0.1)).eval()


def begun(network: Translator, source: torch.Tensor, sizes: torch.Tensor) -> list[torch.Tensor]:
    """What `decoder` takes behind the ids and lengths."""
    h, c, memory = network.encoder(source, sizes)
    return [sizes, h, c, *network.decoder.second.zero_states(len(source)), memory]


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 4]])
def test_chunks_of_a_translation_equal_the_whole(chunks: list[int]) -> None:
    network = tiny()
    ids, source = torch.randint(13, (3, 9)), torch.randint(11, (3, 7))
    sizes, *states, memory = begun(network, source, torch.tensor([7, 7, 7], dtype=torch.int32))
    whole, weights, *last = network.decoder(ids, torch.full((3,), 9), sizes, *states, memory)
    torch.testing.assert_close(network(source, ids).softmax(2), whole)
    parts = zip(ids.split(chunks, 1), whole.split(chunks, 1), weights.split(chunks, 1), strict=True)
    for chunk, scores, looked in parts:
        lengths = torch.full((3,), chunk.shape[1])
        found, attended, *states = network.decoder(chunk, lengths, sizes, *states, memory)
        torch.testing.assert_close(found, scores)
        torch.testing.assert_close(attended, looked)
    torch.testing.assert_close(states, last)


@torch.no_grad()
def test_a_sentence_is_translated_alike_beside_longer_ones() -> None:
    """Nothing is attended to beyond a sentence's end."""
    network = tiny()
    source, sizes = torch.randint(11, (3, 7)), torch.tensor([2, 7, 4], dtype=torch.int32)
    ids, lengths = torch.randint(13, (3, 9)), torch.tensor([9, 3, 5])
    together, weights, *_ = network.decoder(ids, lengths, *begun(network, source, sizes))
    for row, (size, length) in enumerate(zip(sizes, lengths, strict=True)):
        given = begun(network, source[row : row + 1, :size], sizes[row : row + 1])
        alone, looked, *_ = network.decoder(ids[row : row + 1, :length], lengths[row : row + 1], *given)
        torch.testing.assert_close(alone[0], together[row, :length])
        torch.testing.assert_close(looked[0], weights[row, :length, :size])
        assert not weights[row, :, size:].any()
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 9))


def test_pairs_come_from_one_file_or_from_two(tmp_path: Path) -> None:
    lines = {"both": ["a b\tc", "d\te f"], "read": ["a b", "d"], "written": ["c", "e f"]}
    for name, text in lines.items():
        (tmp_path / name).write_bytes(gzip.compress(("\n".join(text) + "\n").encode()))
    assert read_pairs(tmp_path / "both") == [("a b", "c"), ("d", "e f")]
    assert read_pairs(tmp_path / "read", tmp_path / "written") == [("a b", "c"), ("d", "e f")]


@pytest.mark.parametrize("tokenized", [False, True])
def test_figures_are_over_all_references_beside_a_word_table(tokenized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A translation that is any of the references, in their spelling, is perfect."""
    asked = {"Is he here?": "Est-il ici ?", "I see the friend of my sister.": "Je vois l'ami de ma sœur."}

    def answer(url, path, field, items, **options):
        assert (path, field, items, options["beams"]) == ("/v1/translate", "inputs", [*asked], 4)
        return [{"text": asked[item]} for item in items]

    monkeypatch.setattr(evaluation, "ask", answer)
    references = by_sentence([PAIRS[0], *PAIRS[3:]])
    assert references == {
        "Is he here?": ["Est-il ici ?"],
        "I see the friend of my sister.": ["Je vois l'ami de ma sœur.", "Je vois l'amie de ma sœur."],
    }
    bleu, chrf = figures("translate", "test", PAIRS, references, tokenized, "http://service")
    assert (bleu.name, chrf.name) == ("test_bleu", "test_chrf")
    assert (bleu.value, chrf.value) == pytest.approx((100, 100))
    assert bleu.floor is not None
    assert bleu.floor < 50


def test_a_report_shows_what_was_looked_at_and_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = {"source": ["a", "b"], "tokens": ["c"], "weights": [[0.25, 0.75]]}

    def answer(url, path, field, items, **options):
        return [{"text": "Est-il ici ?", "attention": looked} for _ in items]

    monkeypatch.setattr(evaluation, "ask", answer)
    monkeypatch.setattr(report, "ask", answer)
    model = SimpleNamespace(name="translate")
    (picture,), (lengths, examples) = report.report_translate("http://service", model, by_sentence(PAIRS), "test")
    assert picture.name == "attention"
    assert lengths.rows[0][:2] == ("3", "3")
    assert examples.rows[0] == ("Is he here?", "Est-il ici ?", "Est-il ici ?")
    assert len(examples.rows) == 4


def test_a_word_table_pairs_words_that_stand_beside_each_other() -> None:
    """Words hold the space before them; of equals the first is taken; one that train does not hold stays as it is."""
    table = WordTable([("red cat", "chat rouge"), ("red dog", "chien rouge"), ("a dog", "un chien")])
    assert table.translate("red dog sleeps") == "rouge chien sleeps"


def test_the_recipe_publishes_what_the_service_translates_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on pairs that repeat, pass parity, publish both graphs, and know the pairs by heart through the service."""

    def prepare(settings: Settings, seed: int) -> TranslateModule:
        small = {"source_vocabulary": SMALLEST, "target_vocabulary": SMALLEST, "width": 32, "encoder": 24, "tokens": 30}
        small |= {"decoder": 32, "learning_rate": 1e-2, "averaging": 0.0, "dropout": 0.0, "smoothing": 0.0}
        return TranslateModule(settings.model_copy(update=small), Seen(PAIRS[:4] * 40, PAIRS[:4]), seed)

    recipe = find_recipe("translate")
    run = recipe.run.model_copy(update={"epochs": 6, "precision": "32-true"})
    recipe = replace(recipe, kind=replace(recipe.kind, prepare=prepare), run=run)
    module = fit(recipe, seed=1, resume=False, runs_dir=tmp_path / "runs").module
    monkeypatch.setattr(translate, "find", lambda part: Found(part, tmp_path / part, "0" * 64))
    monkeypatch.setattr(translate, "read_pairs", lambda *files: PAIRS[:4])
    directory = publish(recipe.release(module), tmp_path / "models", command="a test", seed=1)
    manifest = read_manifest(directory)
    assert manifest.start is not None
    assert [network.bidirectional for network in manifest.start.networks] == [True]
    assert manifest.start.states == {"h0": "h0_start", "c0": "c0_start", "memory": "memory_start"}
    assert {file.name for file in directory.iterdir()} >= {"start.onnx", "source-tokenizer.json"}
    assert manifest.provenance is not None
    bleu, chrf = manifest.provenance.metrics
    assert bleu.value > 70
    assert chrf.value > 70
    with serving(tmp_path / "models") as url:
        for sentence, translation in PAIRS[:4]:
            by_steps, at_once = stepped(url, sentence, translation), forced(module, sentence, translation)
            np.testing.assert_allclose(by_steps, at_once, atol=1e-4)


def forced(module: TranslateModule, sentence: str, translation: str) -> np.ndarray:
    """Return how likely PyTorch holds each next token of a translation, in one pass of the weights as published."""
    network = copy.deepcopy(module.network).half().float().eval()
    source, target = module.source.encode(sentence).ids, module.target.encode(translation).ids
    with torch.no_grad():
        scores = network(torch.tensor([source]), torch.tensor([[START_ID, *target]]))
    return scores[0].softmax(-1).numpy()


def stepped(url: str, sentence: str, translation: str) -> np.ndarray:
    """Return the same from steps through the service: the first alone, and the rest from its state."""
    begun, rest = {"begin": {"text": sentence}}, {"text": translation}
    options: dict[str, Any] = {"model": "translate", "return": "all"}
    (first,) = ask(url, "/v1/step", "items", [begun], **options)
    (others,) = ask(url, "/v1/step", "items", [{**rest, "state": first["state"]}], **options)
    return np.array(first["outputs"]["probabilities"] + others["outputs"]["probabilities"])
