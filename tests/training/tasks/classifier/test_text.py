"""Text: what people type and what the treebank holds become the same words, and chunks become the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer

from training.tasks.classifier.text import (
    BEGIN,
    PAD_ID,
    UNKNOWN_ID,
    Texts,
    grams_of,
    parts_of,
    train_message_pieces,
    train_review_pieces,
    train_review_words,
    words_of,
)

SENTENCE = "i do n't think you 've seen it , but it 's n't -lrb- quite -rrb- `` bad '' -- ca n't , wo n't , can not ..."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_review_words([SENTENCE, "the director 's '70s film ; crème brûlée !", "i 'll 'd 're 'm"], 1000)


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


def test_vocabulary_keeps_the_frequent_words() -> None:
    """Beyond its size the vocabulary drops the rare words first, and the same texts make the same file."""
    texts = ["film film film", "bad bad", "rare"]
    tokenizer = train_review_words(texts, 4)
    assert tokenizer.encode("film bad rare").ids == [2, 3, UNKNOWN_ID]
    assert tokenizer.to_str() == train_review_words(texts, 4).to_str()


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_review_pieces([SENTENCE, "wretched wretched witness witness kindness"], 80)


def test_a_rare_word_falls_into_pieces_of_itself(pieces: Tokenizer) -> None:
    """What was never seen is spelt by what was, and only characters that were not are unknown."""
    assert words_of(pieces, "Wretchedness, isn't it?") == ("wretchedness", ",", "is", "n't", "it", "?")
    spelt = pieces.encode("wretchedness").tokens
    assert len(spelt) > 1
    assert "".join(spelt) == BEGIN + "wretchedness"
    assert UNKNOWN_ID in pieces.encode("\N{SNOWMAN}").ids


@pytest.mark.parametrize("kind", ["tokenizer", "pieces"])
def test_chunks_cut_at_white_space_have_the_ids_of_the_whole(kind: str, request: pytest.FixtureRequest) -> None:
    """A text that is read on as it grows is the same text: no word and no piece spans white space."""
    tokenizer = request.getfixturevalue(kind)
    words = SENTENCE.split()
    whole = tokenizer.encode(SENTENCE).ids
    for cut in range(len(words) + 1):
        first, rest = " ".join(words[:cut]), " ".join(words[cut:])
        assert tokenizer.encode(first).ids + tokenizer.encode(rest).ids == whole


def test_tokens_that_are_spelt_alike_share_runs() -> None:
    """Runs of three to five characters are numbered by how many tokens have them; what one token alone has is none."""
    tokenizer = train_review_words(["wretched witness kindness finesse"], 10)
    grams = grams_of(tokenizer, 1000)
    wretched, witness, kindness, finesse = (
        {*grams[tokenizer.token_to_id(word)].tolist()} - {0} for word in ("wretched", "witness", "kindness", "finesse")
    )
    assert witness == kindness == {1, 2, 3}  # nes, ess, ness
    assert finesse == {1, 2, 3}
    assert wretched == set()
    assert not grams[:2].any()  # padding and the unknown token are not spelt


def test_the_most_common_runs_are_kept(pieces: Tokenizer) -> None:
    """A smaller number keeps the first of the same runs; none makes empty rows."""
    grams, fewer = grams_of(pieces, 1000), grams_of(pieces, 5)
    having = torch.stack([(grams == run).any(1).sum() for run in range(1, int(grams.max()) + 1)])
    assert having.min() >= 2
    assert (having.diff() <= 0).all()
    assert fewer.max() == 5
    kept = [[run for run in row if 0 < run <= 5] for row in grams.tolist()]
    assert [[run for run in row if run] for row in fewer.tolist()] == kept
    assert not grams_of(pieces, 0).any()


def test_messages_keep_the_length_of_numbers() -> None:
    """A number is read by how long it is, and ends where letters begin; a mark stands alone."""
    tokenizer = train_message_pieces(["WIN cash now", "win CASH on 08712 300", "1234 5"] * 2, 300)
    words = "win", "\u00a3", "000", ":", "call", "00000000000", "now", "!"
    assert words_of(tokenizer, "WIN \u00a3500: call 08712300220now!") == words
    assert tokenizer.encode("08712").ids == tokenizer.encode("44444").ids
    assert tokenizer.encode("08712").ids != tokenizer.encode("0871").ids


MAKE = (
    "import sys; from training.tasks.classifier import text; texts = sys.stdin.read().splitlines();"
    "[print(make(texts, 60).to_str()) for make in (text.train_review_words, text.train_review_pieces)]"
)


def test_a_vocabulary_is_the_same_in_every_process() -> None:
    """A checkpoint holds no vocabulary: it is made again, and every id must be what it was."""
    texts = " ".join(f"{a}{b}{a} {b}{c}" for a in "abcdefgh" for b in "ijklmno" for c in "pqrst")
    made = [
        subprocess.run([sys.executable, "-c", MAKE], input=texts, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    assert made[0]
    assert made[0] == made[1] == made[2]


def test_opened_pieces_spell_the_same_words(pieces: Tokenizer) -> None:
    """Pieces taken apart are more and smaller, spell what they were part of, and depend on the seed alone."""
    texts = Texts.of(["wretched witness kindness"], torch.ones(1, 1), pieces)
    parts = parts_of(pieces)
    spelt = "".join(pieces.id_to_token(token) for token in texts.ids[0])
    for share, seed in [(0.0, 0), (0.5, 0), (0.5, 1), (1.0, 0)]:
        ids = texts.opened(parts, share, seed).ids[0]
        assert "".join(pieces.id_to_token(token) for token in ids) == spelt
        assert ids == texts.opened(parts, share, seed).ids[0]
    assert texts.opened(parts, 0.0, 0).ids == texts.ids
    assert len(texts.opened(parts, 1.0, 0).ids[0]) == len(spelt)


def test_words_have_no_parts(tokenizer: Tokenizer) -> None:
    """There is nothing to take apart in a vocabulary of words."""
    assert parts_of(tokenizer) == {}


@pytest.fixture
def texts(tokenizer: Tokenizer) -> Texts:
    many = [" ".join(["film"] * (1 + number % 5)) for number in range(23)]
    labels = torch.tensor([[number % 2, 1 - number % 2] for number in range(23)], dtype=torch.float32)
    return Texts.of(many, labels, tokenizer)


def test_batches_hold_every_text_once(texts: Texts) -> None:
    """Each batch is padded to its own longest row, few need it, and targets stay with their texts."""
    batches = texts.batches(4, torch.Generator().manual_seed(0))
    assert [len(ids) for ids, *_ in batches].count(4) == 5
    for ids, lengths, targets, weights in batches:
        assert ids.shape == (len(targets), lengths.max())
        assert weights.shape == lengths.shape
        assert ((ids != PAD_ID).sum(1) == lengths).all()
    seen = sorted(
        (int(n), int(y[0])) for _, lengths, targets, _ in batches for n, y in zip(lengths, targets, strict=True)
    )
    assert seen == sorted((1 + number % 5, number % 2) for number in range(23))
    assert sum(bool((lengths == ids.shape[1]).all()) for ids, lengths, *_ in batches) >= 5


def test_shuffle_depends_on_its_seed_alone(texts: Texts) -> None:
    """The same seed gives the same batches, another seed others."""
    first, again, other = (texts.batches(4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


def test_text_without_words_is_read_as_one_unknown(tokenizer: Tokenizer) -> None:
    """Every row has at least one step."""
    assert Texts.of([" "], torch.ones(1, 2), tokenizer).ids == [[UNKNOWN_ID]]
