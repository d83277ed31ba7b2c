"""POST /v1/translate: the best texts that a search finds, alone and among others, and what it tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import in_process
import numpy as np
import pytest
import tiny_conditions
from conftest import Server
from tiny_writers import LETTERS, START

from service.endpoints.translate import MAX_WEIGHTS

TEXTS = ["a", "abc de", "gfe\nd", "cabbage", "a a a a a a a a", "dcb"]
END = tiny_conditions.END


def ask(server: Server, *inputs: Any, **options: Any) -> list[dict[str, Any]]:
    answer = server.post("/v1/translate", {"inputs": inputs, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def logits_by_hand(directory: Path, text: str, ids: list[int]) -> np.ndarray:
    """Return what onnxruntime makes of a text and a translation, the whole of it at once. Shapes: [ids, letters]."""
    source = np.array([[LETTERS.index(each) for each in text]], np.int32)
    begun = in_process.run_file(directory / "start.onnx", source=source, source_lengths=np.array([len(text)], np.int32))
    made = in_process.run(
        directory,
        ids=np.array([ids], np.int32),
        lengths=np.array([len(ids)], np.int32),
        h=begun["h_0"],
        memory=begun["memory_0"],
        memory_lengths=np.array([len(text)], np.int32),
    )
    return made["logits"][0]


def logp_by_hand(directory: Path, text: str, ids: list[int]) -> float:
    """Return the log probability of a translation as teacher forcing has it."""
    made = logits_by_hand(directory, text, [START, *ids[:-1]]).astype(np.float64)
    made -= np.log(np.exp(made).sum(axis=-1, keepdims=True))
    return float(made[np.arange(len(ids)), ids].sum())


def greedy_by_hand(directory: Path, text: str, most: int) -> str:
    ids: list[int] = []
    while len(ids) < most:
        ids.append(int(logits_by_hand(directory, text, [START, *ids])[-1].argmax()))
        if ids[-1] == END:
            return "".join(LETTERS[each] for each in ids[:-1])
    return "".join(LETTERS[each] for each in ids)


@pytest.mark.parametrize("text", TEXTS)
def test_one_beam_is_the_loop_of_likeliest_letters(conditioned: Server, conditioned_models: Path, text: str) -> None:
    (result,) = ask(conditioned, text, beams=1)
    assert result["text"] == greedy_by_hand(conditioned_models / "translate" / "1", text, min(16, 10 + 3 * len(text)))


def test_texts_of_different_length_have_the_translations_that_they_have_alone(conditioned: Server) -> None:
    together = ask(conditioned, *TEXTS, alternatives=3, attention=True)
    alone = [ask(conditioned, text, alternatives=3, attention=True)[0] for text in TEXTS]
    for one, other in zip(together, alone, strict=True):
        assert one["text"] == other["text"]
        assert [each["text"] for each in one["alternatives"]] == [each["text"] for each in other["alternatives"]]
        assert one["score"] == pytest.approx(other["score"], abs=2e-4)
        np.testing.assert_allclose(one["attention"]["weights"], other["attention"]["weights"], atol=2e-4)


@pytest.mark.parametrize("penalty", [0, 1, 3])
def test_scores_are_those_of_teacher_forcing_over_the_penalty_of_length(
    conditioned: Server, conditioned_models: Path, penalty: float
) -> None:
    (result,) = ask(conditioned, "abc de", beams=5, alternatives=5, length_penalty=penalty)
    found = [result, *result["alternatives"]]
    assert len({each["text"] for each in found}) == 5
    assert {each["finish"] for each in found} == {"end"}
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    for each in found:
        ids = [LETTERS.index(letter) for letter in each["text"]] + ([END] if each["finish"] == "end" else [])
        logp = logp_by_hand(conditioned_models / "translate" / "1", "abc de", ids)
        assert each["score"] == pytest.approx(logp / ((5 + len(ids)) / 6) ** penalty, abs=2e-4)


def test_what_a_wide_search_finds_is_no_worse_than_the_end_of_a_narrow_one(conditioned: Server) -> None:
    compared = 0
    for beams in (2, 4, 8):
        narrow, wide = (ask(conditioned, *TEXTS, beams=each, length_penalty=0) for each in (beams, 16))
        for one, other in zip(narrow, wide, strict=True):
            compared += one["finish"] == "end"
            assert one["finish"] == "length" or other["score"] >= one["score"] - 1e-4
    assert compared


def test_attention_has_a_row_for_each_piece_over_the_pieces_of_the_text(conditioned: Server) -> None:
    (result,) = ask(conditioned, "abc de", attention=True, length_penalty=5)
    assert result["text"]
    attention = result["attention"]
    assert attention["source"] == [*"abc de"]
    assert "".join(attention["tokens"]) == result["text"]
    weights = np.array(attention["weights"])
    assert weights.shape == (len(result["text"]), 6)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-3)


def test_a_text_longer_than_those_of_training_is_translated_with_a_warning(conditioned: Server) -> None:
    short, long = ask(conditioned, "abc", "abcdefg" * 3)
    assert "warnings" not in short
    assert long["warnings"] == ["the text has 21 tokens; the longest that the model was trained on has 16"]


def test_items_fail_alone_and_say_where(conditioned: Server) -> None:
    good, empty, unknown, wrong = ask(conditioned, {"id": "a", "text": "abc"}, {"text": ""}, "xyz", {"texts": "abc"})
    assert (good["id"], good["tokens"], good["unknown_ratio"]) == ("a", 3, 0)
    assert (empty["error"]["code"], empty["error"]["field"]) == ("empty_input", "inputs[1].text")
    assert unknown["unknown_ratio"] == 1
    assert (wrong["error"]["code"], wrong["error"]["field"]) == ("invalid_request", "inputs[3].text")


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"beams": 2, "alternatives": 3}, "invalid_request", "alternatives"),
        ({"beams": 0}, "invalid_request", "beams"),
        ({"beams": 17}, "invalid_request", "beams"),
        ({"length_penalty": -1}, "invalid_request", "length_penalty"),
        ({"model": "generator"}, "wrong_task", "model"),
        ({"model": "nonesuch"}, "unknown_model", "model"),
    ],
)
def test_a_request_that_is_wrong_as_a_whole_is_refused(
    conditioned: Server, options: dict[str, Any], code: str, field: str
) -> None:
    answer = conditioned.post("/v1/translate", {"inputs": ["abc"], **options})
    error = answer.json()["error"]
    assert (answer.is_client_error, error["code"], error["field"]) == (True, code, field)


def test_hypotheses_of_all_texts_share_runs(conditioned: Server) -> None:
    answer = conditioned.post("/v1/translate", {"inputs": TEXTS, "beams": 2}).json()
    assert answer["usage"]["batch_rows"] == len(TEXTS)


def test_a_search_is_as_many_lanes_of_a_run_as_it_has_hypotheses(conditioned: Server) -> None:
    def runs() -> float:
        return conditioned.metric("baton_batch_rows_count", "model", "translate")

    before = runs()
    ask(conditioned, *TEXTS, beams=8, length_penalty=5)
    assert runs() - before <= 5  # turns of six steps for translations of 16 pieces at most, and the wait between them


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"inputs": ["a" * 5000]}, "item_too_large", "inputs[0]"),
        ({"model": "captioner", "inputs": ["a"]}, "wrong_task", "model"),
    ],
)
def test_what_is_too_much_is_refused(conditioned: Server, body: dict[str, Any], code: str, field: str) -> None:
    error = conditioned.post("/v1/translate", body).json()["error"]
    assert (error["code"], error["field"]) == (code, field)


def test_only_weights_that_are_shown_count_against_their_limit(conditioned: Server) -> None:
    texts = ["abcdefg " * 50] * 40
    answer = conditioned.post("/v1/translate", {"inputs": texts, "beams": 16, "attention": True})
    assert answer.status_code == 200, answer.text
    shown = sum(len(row) for result in answer.json()["results"] for row in result["attention"]["weights"])
    assert shown <= MAX_WEIGHTS


def test_more_texts_than_a_run_has_rows_are_translated_as_they_are_alone(conditioned: Server) -> None:
    many = ask(conditioned, *(TEXTS * 30), beams=3)
    alone = ask(conditioned, *TEXTS, beams=3)
    assert [each["text"] for each in many] == [each["text"] for each in alone] * 30
