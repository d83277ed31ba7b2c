"""Text classifiers: parity of their graphs, weights that are averaged, and scores that are calibrated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from training.export import parity
from training.export.graph import export
from training.tasks.classifier.module import Settings, TextModule, best_temperature, finish, servable
from training.tasks.classifier.network import LiveTextNetwork, TextNetwork, Tokens, Words
from training.tasks.classifier.text import BEGIN, KEY_PRIMES, KEYS, UNKNOWN_ID, Texts, WordIndex, train_review_pieces

LABELS = ("no", "maybe", "yes")
VOCABULARY = 50
SETTINGS: dict[str, Any] = {
    "network": "whole",
    "vocabulary": VOCABULARY,
    "max_length": 20,
    "dropout": 0.4,
    "token_dropout": 0.3,
    "unknown": 0.1,
    "grams": 20,
    "words": 20,
    "opened": 0.1,
    "rows": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "averaging": 0.9,
    "readers": [
        {"reads": "tokens", "cell": "lstm", "bidirectional": True, "width": 4, "hidden": 5, "layers": 2},
        {"reads": "words", "cell": "gru", "bidirectional": False, "width": 3, "hidden": 4, "layers": 1},
    ],
}
# Runs of characters that tokens share, by id: two for every second token.
GRAMS = torch.tensor([[0, 0], [1, 2]]).repeat(VOCABULARY // 2, 1)
ONE = torch.tensor([1])
# Every third token begins a word, and a word's key says one of seven numbers.
INDEX = WordIndex(torch.arange(VOCABULARY) % 3 == 0, (torch.arange(KEYS) % 7 + 1).int())
LIVE = {**SETTINGS, "network": "live", "readers": [{**SETTINGS["readers"][1], "reads": "tokens"}]}


@pytest.fixture
def module() -> TextModule:
    texts = ["good good", "bad", "good bad good", "a film", "bad film"]
    tokenizer = train_review_pieces(texts, VOCABULARY)
    targets = functional.one_hot(torch.tensor([2, 0, 1, 1, 0]), len(LABELS)).float()
    labelled = Texts.of(texts, targets, tokenizer)
    torch.manual_seed(0)
    return TextModule(Settings(**SETTINGS), tokenizer, LABELS, labelled, labelled, seed=0)


@pytest.mark.parametrize("network", ["whole", "live"])
@pytest.mark.parametrize("grams", [GRAMS, torch.zeros_like(GRAMS)], ids=["spelt", "plain"])
def test_text_networks_export_within_parity(network: str, grams: torch.Tensor) -> None:
    """Both networks give the same scores under ONNX, in any batch, any padding and chunks, with shared runs or not."""
    made = Settings(**(LIVE if network == "live" else SETTINGS)).make(grams, INDEX, len(LABELS))
    for reader in made.readers:
        reader.tokens.settle()
    graph = servable(made, VOCABULARY, LABELS)
    measured = parity.measure(graph, export(graph))
    measured.require()
    assert (measured.chunks_vs_whole is not None) == (network == "live")
    assert isinstance(made, LiveTextNetwork if network == "live" else TextNetwork)


def test_settled_tables_hold_two_bytes_a_number() -> None:
    """A table of 16 bits is what the graph holds, not one that was widened, nor one of shared runs beside it."""
    sizes = []
    readers = [{**reader, "reads": "tokens"} for reader in SETTINGS["readers"]]
    for vocabulary in (VOCABULARY, 10_000):
        grams = GRAMS.repeat(vocabulary // VOCABULARY, 1)
        made = Settings(**{**SETTINGS, "readers": readers}).make(grams, INDEX, len(LABELS))
        for reader in made.readers:
            reader.tokens.settle()
        sizes.append(len(export(servable(made, vocabulary, LABELS))))
    assert sizes[1] - sizes[0] == pytest.approx(2 * (10_000 - VOCABULARY) * (4 + 3), rel=0.03)


def test_settling_changes_no_vector() -> None:
    """What a token's own vector and its shared runs add up to is what the settled table holds."""
    torch.manual_seed(0)
    tokens = Tokens(GRAMS, 4, dropout=0.3, unknown=0.1).eval()
    ids, lengths = torch.arange(VOCABULARY)[None], torch.tensor([VOCABULARY])
    with torch.no_grad():
        before = tokens(ids, lengths)
        assert not torch.allclose(before, tokens.table(ids), atol=1e-2)
        tokens.settle()
        torch.testing.assert_close(tokens(ids, lengths), before, atol=1e-3, rtol=1e-3)


def test_spelling_is_learned_by_all_that_share_it() -> None:
    """The gradient of one token reaches the others with the same runs, and no token without them."""
    tokens = Tokens(GRAMS, 4, dropout=0.0, unknown=0.0)
    tokens(torch.tensor([[3]]), ONE).sum().backward()
    assert tokens.runs is not None
    assert tokens.runs.weight.grad is not None
    assert tokens.runs.weight.grad[1:].abs().min() > 0
    tokens.runs.weight.grad = None
    tokens(torch.tensor([[2]]), ONE).sum().backward()
    assert not tokens.runs.weight.grad.any()


def test_words_are_found_by_their_pieces() -> None:
    """Each word has its number where it ends and none before; what was not counted is unknown; padding is nothing."""
    tokenizer = train_review_pieces(["stunning films", "stunned film", "a stun"], 24)
    counted = ["a stunning film"] * 3 + ["stunning stunning a"]
    index = WordIndex.of(tokenizer, [encoding.ids for encoding in tokenizer.encode_batch(counted)], 2)
    words = Words(index, 4, dropout=0.0, unknown=0.0)
    texts = [encoding.ids for encoding in tokenizer.encode_batch(["a stunning film", "stunned a", "a"])]
    lengths = torch.tensor([len(ids) for ids in texts])
    junk = torch.full((3, int(lengths.max()) + 2), 5)
    for row, ids in zip(junk, texts, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    found = words.words(junk, lengths)
    numbers = [
        [number for number in row[:length] if number] for row, length in zip(found.tolist(), lengths, strict=True)
    ]
    assert numbers == [[3, 2, UNKNOWN_ID], [UNKNOWN_ID, 3], [3]]  # stunning was counted five times, a four times
    assert len(texts[0]) > 3
    for row, length, ids in zip(found, lengths, texts, strict=True):
        ends = [place + 1 == len(ids) or tokenizer.id_to_token(ids[place + 1])[0] == BEGIN for place in range(len(ids))]
        assert (row[:length] > 0).tolist() == ends


def test_words_of_too_many_pieces_are_unknown() -> None:
    """Five pieces have no key of their own: the last four would be taken for another word."""
    tokenizer = train_review_pieces(["a b c d e"], 12)
    long, short = (tokenizer.encode(text).ids for text in ("abcde", "bcde"))
    words = Words(WordIndex.of(tokenizer, [short, long, long], 9), 4, dropout=0.0, unknown=0.0)
    assert len(long) > len(KEY_PRIMES)
    assert words.words(torch.tensor([long]), torch.tensor([len(long)]))[0, -1] == UNKNOWN_ID


def test_best_temperature_is_that_worked_by_hand() -> None:
    """Votes of 2 log 3 that are right three times of four must be halved to mean three of four."""
    votes = torch.tensor([[0.0, 2 * torch.log(torch.tensor(3.0))]]).repeat(4, 1)
    targets = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert best_temperature(votes, targets) == pytest.approx(2, rel=0.02)


def test_a_finished_module_has_temperature_one(module: TextModule) -> None:
    """Calibrating keeps every answer and leaves nothing to calibrate, so a second time changes nothing."""

    def votes() -> torch.Tensor:
        each = [(torch.tensor([ids]), torch.tensor([len(ids)], dtype=torch.int32)) for ids in module.dev_texts.ids]
        return torch.cat([module.network.votes(ids, lengths).mean(0) for ids, lengths in each])

    with torch.no_grad():
        for reader in module.network.eval().readers:
            reader.head.weight.mul_(100)
        before = votes()
        targets = functional.one_hot(before.argmax(1), len(LABELS)).float()
        targets[0] = targets[0].roll(1)  # one answer is wrong, so the scores must not be sure
        module.dev_texts = replace(module.dev_texts, targets=targets)
        assert abs(best_temperature(before, targets) - 1) > 0.1
        finish(module)
        after = votes()
        assert torch.equal(before.argmax(1), after.argmax(1))
        assert best_temperature(after, targets) == pytest.approx(1, rel=0.03)
        finish(module)
        assert torch.allclose(votes(), after, rtol=0.03)


def test_each_reader_learns_alone(module: TextModule) -> None:
    """The clipped gradient of one reader does not depend on another's weights, nor on how large the other's is."""
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.network.eval()
    batches = next(iter(module.val_dataloader())), next(iter(module.val_dataloader()))

    def gradient() -> torch.Tensor:
        module.zero_grad()
        module.training_step(batches, 0).backward()
        module.configure_gradient_clipping(None, gradient_clip_val=1e-3)
        found = module.network.readers[0].head.weight.grad
        assert found is not None
        return found.clone()

    before = gradient()
    norms = [
        torch.stack([weight.grad.norm() for weight in reader.parameters() if weight.grad is not None]).norm()
        for reader in module.network.readers
    ]
    assert torch.stack(norms).tolist() == pytest.approx([1e-3, 1e-3], rel=1e-2)
    with torch.no_grad():
        module.network.readers[1].head.weight.add_(5)
    assert torch.equal(gradient(), before)


def test_each_reader_has_batches_of_its_own(module: TextModule) -> None:
    """Every epoch gives both readers the same texts in another order; the first reads as it would alone."""
    both = list(module.train_dataloader())
    order = [[ids.tolist() for ids, *_ in batches] for batches in zip(*both, strict=True)]
    assert order[0] != order[1]
    alone = TextModule(
        Settings(**{**SETTINGS, "readers": SETTINGS["readers"][:1]}),
        module.tokenizer,
        LABELS,
        module.train_texts,
        module.dev_texts,
        seed=0,
    )
    assert [batches[0][0].tolist() for batches in alone.train_dataloader()] == order[0]


def test_a_live_network_reads_forward_alone() -> None:
    """What reads back from the end cannot be carried on, and is refused where the settings are read."""
    with pytest.raises(ValidationError, match="one reader, of tokens, in one direction"):
        Settings(**{**SETTINGS, "network": "live"})
