"""Text of ids as they come: whole characters only, nothing of what ends the sequence, and the same as all at once."""

from __future__ import annotations

import random

import pytest
from tiny import words
from tiny_writers import fallback, letters, octets, spaced

from service.model.decoding import Decoding
from service.model.vocabulary import Vocabulary

ALPHABET = "\n abcdefg."


def pieces(decoding: Decoding, ids: list[int]) -> list[str]:
    """Return the text that is there after each id, and what the end adds, up to a stop text."""
    taken = []
    for token in ids:
        decoding.add(token)
        taken.append(decoding.take())
        if decoding.stopped:
            break
    decoding.end()
    return [*taken, decoding.take()]


def of_letters(text: str, *stops: str) -> list[str]:
    tokenizer = letters(ALPHABET)
    return pieces(Decoding(tokenizer, [], stops), tokenizer.encode(text).ids)


def test_each_character_comes_with_its_id() -> None:
    assert of_letters("a bad\ncab") == [*"a bad\ncab", ""]


def test_a_character_of_several_ids_comes_with_the_last() -> None:
    tokenizer = octets()
    text = "é€ a"
    ids = tokenizer.encode(text).ids
    taken = pieces(Decoding(tokenizer, [], []), ids)
    assert len(ids) == 7
    assert [piece for piece in taken if piece] == [*text]
    assert pieces(Decoding(tokenizer, [], []), ids[:1]) == ["", ""]


def test_a_stop_text_ends_and_is_no_part_of_the_text() -> None:
    assert "".join(of_letters("abcabd", "abd")) == "abc"
    assert "".join(of_letters("abcabd", "b", "abc")) == "a"


def test_the_first_of_several_stop_texts_counts() -> None:
    assert "".join(of_letters("abcde", "de", "cd")) == "ab"


def test_what_may_begin_a_stop_text_is_held_back_until_it_is_none() -> None:
    assert of_letters("ababc", "abc") == ["", "", "ab", "", "", ""]
    assert of_letters("ab", "abc") == ["", "", "ab"]
    assert of_letters("aab", "ab.") == ["", "a", "", "ab"]


@pytest.mark.parametrize("stop", ["a", "ab", "ba.", ".."])
def test_the_text_in_pieces_is_the_text_up_to_the_stop(stop: str) -> None:
    text = "cabba..ged fab.ba.c"
    assert "".join(of_letters(text, stop)) == text.partition(stop)[0]


def test_a_word_behind_a_prompt_is_written_as_behind_it() -> None:
    tokenizer = words()
    before = tokenizer.encode("a good").ids
    assert "".join(pieces(Decoding(tokenizer, before, []), tokenizer.encode("film !").ids)) == " film !"


BYTES = {"octets": octets(), "fallback": fallback()}
NO_CHARACTER = {"octets": "ÿ", "fallback": "<0xFF>"}


def of_bytes(name: str, text: str) -> list[int]:
    """Return the ids of the bytes of a text."""
    if name == "octets":
        return BYTES[name].encode(text).ids
    return [BYTES[name].token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]


@pytest.mark.parametrize("name", BYTES)
def test_the_text_of_bytes_in_pieces_is_their_text_at_once(name: str) -> None:
    tokenizer, text = BYTES[name], "é€ 😀" * 10 + "aé" * 10 + "漢字" * 10
    ids = of_bytes(name, text)
    taken = pieces(Decoding(tokenizer, [], []), ids)
    assert "".join(taken) == tokenizer.decode(ids) == text
    assert [piece for piece in taken if piece] == [*text]


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_characters_are_shown_when_none_can_come_of_them(name: str) -> None:
    tokenizer = BYTES[name]
    ids = [tokenizer.token_to_id(NO_CHARACTER[name])] * 6 + [tokenizer.token_to_id("b")]
    taken = pieces(Decoding(tokenizer, [], []), ids)
    assert taken[:6] == ["", "", "", *["\ufffd"] * 3]
    assert "".join(taken) == tokenizer.decode(ids)


def test_any_bytes_in_pieces_are_their_text_at_once_but_for_a_character_at_the_end() -> None:
    """Where a byte can decide only how its own character is written."""
    tokenizer, rng = BYTES["octets"], random.Random(1)
    for _ in range(100):
        ids = [*rng.choices(range(256), k=40), *tokenizer.encode("a").ids]
        assert "".join(pieces(Decoding(tokenizer, [], []), ids)) == tokenizer.decode(ids)


def test_any_ids_have_a_text() -> None:
    rng = random.Random(1)
    for _ in range(300):
        ids = rng.choices(range(261), k=40)
        pieces(Decoding(BYTES["fallback"], ids[:5], ["b"]), ids[5:])


def test_what_the_ids_before_leave_unfinished_comes_with_the_next() -> None:
    tokenizer = BYTES["octets"]
    ids = of_bytes("octets", "a€b")
    for begun in range(1, len(ids)):
        first, rest = pieces(Decoding(tokenizer, [], []), ids[:begun]), Decoding(tokenizer, ids[:begun], [])
        assert "".join([*first, *pieces(rest, ids[begun:])]) == "a€b"


def test_whether_text_is_held_back_is_told() -> None:
    decoding = Decoding(BYTES["octets"], [], ["ab"])
    told = []
    for token in of_bytes("octets", "ac€a."):
        decoding.add(token)
        told.append(decoding.holds_back)
    assert told == [True, False, True, True, False, True, False]


def test_words_are_spaced_as_at_once() -> None:
    tokenizer, rng = spaced(), random.Random(1)
    ids = rng.choices(range(2, 6), k=30)
    whole = tokenizer.decode(ids)
    assert "".join(pieces(Decoding(tokenizer, [], []), ids)) == whole
    halves = pieces(Decoding(tokenizer, [], []), ids[:10]) + pieces(Decoding(tokenizer, ids[2:10], []), ids[10:])
    assert "".join(halves) == whole


def test_every_id_of_bytes_has_a_name_of_its_own() -> None:
    for tokenizer in BYTES.values():
        vocabulary = Vocabulary(tokenizer, 0)
        ids = [token for token in range(257) if tokenizer.id_to_token(token) != "[UNK]"]
        assert len({vocabulary.name(token, []) for token in ids}) == 256
    names = [vocabulary.name(token, []) for token in of_bytes("fallback", "€a")]
    assert names == ["bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "a"]
