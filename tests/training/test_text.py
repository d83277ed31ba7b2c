"""Text: what people type and what the treebank holds become the same words, and chunks become the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from training.text import PAD_ID, UNKNOWN_ID, Phrases, train_tokenizer

SENTENCE = "i do n't think you 've seen it , but it 's n't -lrb- quite -rrb- `` bad '' -- ca n't , wo n't , can not ..."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([SENTENCE, "the director 's '70s film ; crème brûlée !", "i 'll 'd 're 'm"], 1000)


@pytest.mark.parametrize(
    ("typed", "split"),
    [
        ("I don't", "i do n't"),
        ("You’ve seen it.", "you 've seen it ."),  # noqa: RUF001 as word processors type it
        ("CAN'T, won't, cannot", "ca n't , wo n't , can not"),
        ("I'll I'd I'm you're", "i 'll i 'd i 'm you 're"),
        ("the director's '70s film", "the director 's '70s film"),
        ("quite “bad”", "quite `` bad ''"),
        ('quite "bad"', "quite `` bad ''"),
        ("(quite)", "-lrb- quite -rrb-"),
        ("(quite)", "-LRB- quite -RRB-"),
        ("seen—it…", "seen -- it ..."),
        ("creme\u0300 bru\u0302le\u0301e", "crem\u00e8 br\u00fbl\u00e9e"),
    ],
)
def test_typed_text_has_the_words_of_the_treebank(tokenizer: Tokenizer, typed: str, split: str) -> None:
    """Capitals, contractions, quotes, brackets, dashes and accents are spelt one way."""
    assert tokenizer.encode(typed).tokens == tokenizer.encode(split).tokens
    assert tokenizer.encode(typed).ids == tokenizer.encode(split).ids


def test_one_word_is_one_token(tokenizer: Tokenizer) -> None:
    """Words, clitics and marks stand alone; white space is nothing."""
    assert tokenizer.encode("  I can't\tsee:\nyou!").tokens == ["i", "ca", "n't", "[UNK]", "[UNK]", "you", "!"]
    assert tokenizer.encode(" \n").ids == []


def test_unseen_words_are_unknown(tokenizer: Tokenizer) -> None:
    """Padding has id 0, whatever the vocabulary does not hold has the unknown token's id."""
    assert tokenizer.token_to_id("[PAD]") == PAD_ID
    assert tokenizer.encode("zyzzyva").ids == [UNKNOWN_ID]


def test_chunks_cut_at_white_space_have_the_ids_of_the_whole(tokenizer: Tokenizer) -> None:
    """A text that is read on as it grows is the same text."""
    words = SENTENCE.split()
    whole = tokenizer.encode(SENTENCE).ids
    for cut in range(len(words) + 1):
        first, rest = " ".join(words[:cut]), " ".join(words[cut:])
        assert tokenizer.encode(first).ids + tokenizer.encode(rest).ids == whole


def test_vocabulary_keeps_the_frequent_words() -> None:
    """Beyond its size the vocabulary drops the rare words first, and the same texts make the same file."""
    texts = ["film film film", "bad bad", "rare"]
    tokenizer = train_tokenizer(texts, 4)
    assert tokenizer.encode("film bad rare").ids == [2, 3, UNKNOWN_ID]
    assert tokenizer.to_str() == train_tokenizer(texts, 4).to_str()


@pytest.fixture
def phrases(tmp_path: Path, tokenizer: Tokenizer) -> Phrases:
    lines = [f"{number % 2}\t{' '.join(['film'] * (1 + number % 5))}" for number in range(23)]
    (tmp_path / "train.tsv").write_text("label\tsentence\n" + "\n".join(lines) + "\n")
    return Phrases.of(tmp_path / "train.tsv", tokenizer)


def test_batches_hold_every_phrase_once(phrases: Phrases) -> None:
    """Each batch is padded to its own longest row, and labels stay with their texts."""
    batches = phrases.batches(4, torch.Generator().manual_seed(0))
    assert sum(len(ids) for ids, _, _ in batches) == 23
    for ids, lengths, labels in batches:
        assert ids.shape == (len(labels), lengths.max())
        assert ((ids != PAD_ID).sum(1) == lengths).all()
    seen = sorted((int(n), int(y)) for _, lengths, labels in batches for n, y in zip(lengths, labels, strict=True))
    assert seen == sorted((1 + number % 5, number % 2) for number in range(23))


def test_shuffle_depends_on_its_seed_alone(phrases: Phrases) -> None:
    """The same seed gives the same batches, another seed others."""
    first, again, other = (phrases.batches(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(a[0].shape == b[0].shape for a, b in zip(first, other, strict=True))


def test_text_without_words_is_read_as_one_unknown(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Every row has at least one step."""
    (tmp_path / "odd.tsv").write_text("label\tsentence\n1\t \n")
    assert Phrases.of(tmp_path / "odd.tsv", tokenizer).ids == [[UNKNOWN_ID]]
