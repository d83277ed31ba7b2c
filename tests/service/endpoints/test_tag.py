"""POST /v1/tag through a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Server, ServerFactory
from tiny import WORDS, text_settings
from tiny_sequences import ALPHABET, PIECES, TAGS, WIDTH, live_tagger, octets, run

TEXTS = ["a good film", "bad", "not a very good film !", "zzz Goooooood film"]
CLOSE = 1e-5


def tag(server: Server, *inputs: object, model: str = "tagger", **more: object) -> list[dict]:
    return server.post("/v1/tag", {"model": model, "inputs": inputs, **more}).json()["results"]


def words_of(result: dict) -> list[tuple]:
    return [(token["text"], token["start"], token["end"]) for token in result["tokens"]]


def scores_of(result: dict) -> np.ndarray:
    return np.array([[token["scores"][tag] for tag in TAGS] for token in result["tokens"]])


def test_a_word_has_its_place_its_label_and_its_scores(sequence_server: Server) -> None:
    answer = sequence_server.post(
        "/v1/tag", {"model": "tagger", "inputs": ["a good xyzzy", {"id": "b", "text": "bad"}], "scores": "all"}
    )
    body = answer.json()
    assert answer.status_code == 200
    assert (body["model"], body["version"], body["summary"]) == ("tagger", "1", {"ok": 2, "failed": 0})
    assert (body["usage"]["rows"], body["usage"]["steps"]) == (2, 4)
    first, second = body["results"]
    assert (first["index"], first["id"], second["index"], second["id"]) == (0, None, 1, "b")
    assert words_of(first) == [("a", 0, 1), ("good", 2, 6), ("xyzzy", 7, 12)]
    assert (first["unknown_ratio"], second["unknown_ratio"]) == (pytest.approx(1 / 3, abs=1e-4), 0)
    for token in first["tokens"]:
        assert token["score"] == max(token["scores"].values()) == token["scores"][token["label"]]
        assert sum(token["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_only_the_label_is_shown_unless_all_scores_are_asked_for(sequence_server: Server) -> None:
    (result,) = tag(sequence_server, "good")
    assert [*result["tokens"][0]] == ["text", "start", "end", "label", "score"]


def test_words_are_read_with_their_characters_as_the_model_says(sequence_server: Server, sequence_models: Path) -> None:
    """Of a longer word the first and the last characters count, with their case."""
    (result,) = tag(sequence_server, "a Goooooood film 😀", scores="all")
    tokens = ["a", "Goooooood", "film", "😀"]
    spelled = ["a", "Goood", "film", "😀"]
    ids = [WORDS.index(word) if word in WORDS else WORDS.index("[UNK]") for word in tokens]
    characters = [[2 + ALPHABET.index(char) for char in word] + [0] * (WIDTH - len(word)) for word in spelled]
    steps = np.array([[each, *word] for each, word in zip(ids, characters, strict=True)], np.int32)
    assert scores_of(result) == pytest.approx(run(sequence_models, "tagger", ids=steps), abs=CLOSE)


def test_a_word_of_several_pieces_has_the_label_of_its_first(sequence_server: Server, sequence_models: Path) -> None:
    (result,) = tag(sequence_server, "a Unaffable films!", model="tagger-live", scores="all")
    pieces = ["a", "un", "##aff", "##able", "film", "##s", "!"]
    made = run(sequence_models, "tagger-live", ids=np.array([PIECES.index(piece) for piece in pieces]))
    assert words_of(result) == [("a", 0, 1), ("Unaffable", 2, 11), ("films", 12, 17), ("!", 17, 18)]
    assert scores_of(result) == pytest.approx(made[[0, 1, 4, 6]], abs=CLOSE)


def test_words_of_bytes_leave_out_the_space_before_them(sequence_server: Server, sequence_models: Path) -> None:
    text = "a  good\r\n😀 é "
    (result,) = tag(sequence_server, text, model="octets", scores="all")
    assert words_of(result) == [("a", 0, 1), ("good", 3, 7), ("😀", 9, 10), ("é", 11, 12)]
    encoding = octets().encode(text)
    firsts = [encoding.char_to_token(place) for place in (0, 2, 9, 10)]  # in the pieces a word begins with its space
    made = run(sequence_models, "octets", ids=np.array(encoding.ids))
    assert scores_of(result) == pytest.approx(made[firsts], abs=CLOSE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Élan déjà", [("Élan", 0, 4), ("déjà", 5, 9)]),
        ("e\u0301te ok", [("e\u0301te", 0, 4), ("ok", 5, 7)]),
        ("👍🏽 good\r\n\tfilm", [("👍🏽", 0, 2), ("good", 3, 7), ("film", 10, 14)]),
        ("\ufeffgood", [("good", 1, 5)]),
        ("good… film", [("good", 0, 4), ("…", 4, 5), ("film", 6, 10)]),
        ("中文 ok", [("中", 0, 1), ("文", 1, 2), ("ok", 3, 5)]),
    ],
)
def test_places_count_the_characters_of_the_text_as_it_was_sent(
    sequence_server: Server, text: str, words: list[tuple]
) -> None:
    """The tokenizer takes accents off and leaves some characters out, and places are those of the text all the same."""
    (result,) = tag(sequence_server, text, model="tagger-live")
    assert words_of(result) == words
    assert all(text[start:end] == word for word, start, end in words_of(result))


def test_a_text_that_came_split_keeps_its_words(sequence_server: Server, sequence_models: Path) -> None:
    words = ["a", "unaffable!", "Films", "zz zz"]
    (result,) = tag(sequence_server, {"id": "split", "tokens": words}, model="tagger-live", scores="all")
    pieces = ["a", "un", "##aff", "##able", "!", "film", "##s", "[UNK]", "[UNK]"]
    made = run(sequence_models, "tagger-live", ids=np.array([PIECES.index(piece) for piece in pieces]))
    assert [token["text"] for token in result["tokens"]] == words
    assert not {"start", "end"} & {*result["tokens"][0]}
    assert scores_of(result) == pytest.approx(made[[0, 1, 5, 7]], abs=CLOSE)


def test_a_split_text_is_read_as_the_text_is(sequence_server: Server) -> None:
    text, split = tag(sequence_server, "not a good film", {"tokens": ["not", "a", "good", "film"]}, scores="all")
    assert scores_of(text) == pytest.approx(scores_of(split), abs=CLOSE)


def test_words_with_their_spaces_are_read_as_the_text_by_a_tokenizer_of_bytes(sequence_server: Server) -> None:
    text, split = tag(sequence_server, "a good film", {"tokens": ["a", " good", " film"]}, model="octets", scores="all")
    assert scores_of(text) == pytest.approx(scores_of(split), abs=CLOSE)


@pytest.mark.parametrize("model", ["tagger", "speller-live", "tagger-live", "octets"])
def test_a_batch_answers_as_its_texts_do_alone(sequence_server: Server, model: str) -> None:
    together = tag(sequence_server, *TEXTS, model=model, scores="all")
    for text, result in zip(TEXTS, together, strict=True):
        (alone,) = tag(sequence_server, text, model=model, scores="all")
        assert words_of(alone) == words_of(result)
        assert scores_of(alone) == pytest.approx(scores_of(result), abs=CLOSE)


@pytest.mark.parametrize(
    ("item", "code", "field"),
    [
        ("", "empty_input", "inputs[1]"),
        (" \r\n", "empty_input", "inputs[1]"),
        ({"tokens": []}, "empty_input", "inputs[1].tokens"),
        ({"tokens": ["good", "\u200b"]}, "empty_input", "inputs[1].tokens[1]"),
        ({"tokens": ["good", ""]}, "invalid_request", "inputs[1].tokens[1]"),
        ({"tokens": "good"}, "invalid_request", "inputs[1].tokens"),
        ({"tokens": ["good"], "text": "good"}, "invalid_request", "inputs[1].tokens"),
        ({"id": "x"}, "invalid_request", "inputs[1].text"),
        (5, "invalid_request", "inputs[1]"),
        ({"text": "good", "truncate": "end"}, "invalid_request", "inputs[1].truncate"),
        ("good " * 17, "item_too_large", "inputs[1]"),
        ({"tokens": ["good"] * 17}, "item_too_large", "inputs[1].tokens"),
        ({"tokens": ["x" * 60_000, "x" * 60_000]}, "item_too_large", "inputs[1].tokens"),
        ({"text": "x" * 100_001}, "item_too_large", "inputs[1].text"),
    ],
)
def test_a_bad_item_fails_alone(sequence_server: Server, item: object, code: str, field: str) -> None:
    body = sequence_server.post("/v1/tag", {"model": "tagger-live", "inputs": ["good", item, "film"]}).json()
    assert body["summary"] == {"ok": 2, "failed": 1}
    assert (body["results"][1]["error"]["code"], body["results"][1]["error"]["field"]) == (code, field)
    assert [words_of(body["results"][index]) for index in (0, 2)] == [[("good", 0, 4)], [("film", 0, 4)]]


def test_white_space_is_no_word_to_whatever_tokenizer(sequence_server: Server) -> None:
    for model in ("tagger", "octets"):
        (result,) = tag(sequence_server, {"text": " \r\n "}, model=model)
        assert (result["error"]["code"], result["error"]["field"]) == ("empty_input", "inputs[0].text")


def test_a_long_text_is_never_cut(sequence_server: Server) -> None:
    for model in ("tagger", "tagger-live"):
        (result,) = tag(sequence_server, "good " * 17, model=model)
        assert (result["error"]["message"], result["error"]["limit"]) == ("the text has 17 tokens; at most 16", 16)


def test_a_model_of_another_task_is_refused_with_those_that_would_do(sequence_server: Server) -> None:
    answer = sequence_server.post("/v1/tag", {"model": "sentiment", "inputs": ["good"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "wrong_task")
    assert answer.json()["error"]["message"].endswith("for 'tag' there is octets, speller-live, tagger, tagger-live")
    assert sequence_server.post("/v1/tag", {"inputs": ["good"]}).json()["error"]["code"] == "invalid_request"


def test_what_was_unknown_is_counted(sequence_server: Server) -> None:
    before = sequence_server.metric("baton_unknown_token_ratio_count", "model", "tagger")
    tag(sequence_server, "good zzz", "bad")
    assert sequence_server.metric("baton_unknown_token_ratio_count", "model", "tagger") == before + 2


def test_a_request_may_not_wait_longer_than_asked(sequence_server: Server) -> None:
    body = {"model": "tagger", "inputs": ["good"], "timeout_ms": 10_001}
    answer = sequence_server.post("/v1/tag", body).json()
    assert (answer["error"]["code"], answer["error"]["field"]) == ("invalid_request", "timeout_ms")


def test_more_scores_than_an_answer_may_hold_are_refused(tmp_path: Path, start_server: ServerFactory) -> None:
    """What counts is how many are asked for; the labels alone are few."""
    live_tagger(tmp_path / "models", text=text_settings(polarity=None, max_length=4096))
    server = start_server(tmp_path / "models", tmp_path / "state")
    body = {"inputs": ["a " * 4096] * 41}
    answer = server.post("/v1/tag", {**body, "scores": "all"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "batch_too_large")
    assert (answer.json()["error"]["field"], answer.json()["error"]["limit"]) == ("inputs", 500_000)
    assert answer.json()["error"]["message"] == (
        '503808 scores, 3 of each token; at most 500000 in one answer: send fewer texts, or leave out "scores"'
    )
    assert server.post("/v1/tag", body).json()["summary"] == {"ok": 41, "failed": 0}
