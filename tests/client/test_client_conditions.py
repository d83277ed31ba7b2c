"""The Python client's translations, and its sessions that begin from a condition: what the service answers, typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import Server

from baton_client import ApiError, AsyncClient, Client, StepItem, TranslateResult

VECTOR = np.array([0.5, -1.0, 2.0, 0.0, 1.5])
ROWS = np.array([[1.0, 0.5, -1.0], [0.0, 2.0, 1.0]])
GREEDY = {"model": "translate", "temperature": 0, "max_steps": 8}


@pytest.fixture
def client(conditioned: Server) -> Iterator[Client]:
    with Client(conditioned.url) as client:
        yield client


def answer(server: Server, path: str, **body: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = server.post(path, body).json()["results"]
    return results


# -- translation -----------------------------------------------------------------------------------------------------


def test_texts_are_translated_as_the_service_does(client: Client, conditioned: Server) -> None:
    texts, options = ["abc de", {"id": "b", "text": "gfe"}], {"beams": 5, "alternatives": 3, "attention": True}
    batch = client.translate(texts, **options)
    results = answer(conditioned, "/v1/translate", inputs=texts, **options)
    for found, result in zip(batch, results, strict=True):
        assert (found.id, found.tokens, found.unknown_ratio) == (result["id"], result["tokens"], 0)
        for one, other in zip([found, *found.alternatives], [result, *result["alternatives"]], strict=True):
            assert (one.text, one.finish) == (other["text"], other["finish"])
            assert one.score == pytest.approx(other["score"], abs=2e-4)
            assert one.attention is not None
            told = other["attention"]
            assert (one.attention.source, one.attention.tokens) == (told["source"], told["tokens"])
            np.testing.assert_allclose(one.attention.weights, told["weights"], atol=2e-4)
    assert batch.model == "translate"


def test_what_was_not_asked_for_is_empty_and_a_doubtful_translation_has_warnings(client: Client) -> None:
    short, long = client.translate(["abc", "abcdefg" * 3])
    assert (short.alternatives, short.attention, short.warnings) == ([], None, [])
    assert long.warnings == ["the text has 21 tokens; the longest that the model was trained on has 16"]


def test_what_begins_from_a_doubtful_text_has_warnings(client: Client) -> None:
    told = ["unknown to the model: 1 of the text's 3 tokens"]
    for text, warnings in (("ab!", told), ("abc", [])):
        assert client.step(model="translate", begin=text).warnings == warnings
        (choice,) = client.generate(model="translate", condition=text, max_steps=2).choices
        assert choice.warnings == warnings
        *_, last = client.generate_stream(model="translate", condition=text, max_steps=2)
        assert last.warnings == warnings


def test_a_text_that_fails_fails_alone_and_one_text_is_no_list(client: Client) -> None:
    batch = client.translate(["abc", ""])
    assert [error.code for error in batch.errors.values()] == ["empty_input"]
    assert isinstance(batch[0], TranslateResult)
    with pytest.raises(ValueError, match="texts is of type str; give a list of texts"):
        client.translate("abc")
    with pytest.raises(ApiError, match="invalid_request") as refused:
        client.translate(["abc"], beams=2, alternatives=3)
    assert refused.value.field == "alternatives"


@pytest.mark.anyio
async def test_translations_come_with_asyncio_too(client: Client, conditioned: Server) -> None:
    async with AsyncClient(conditioned.url) as other:
        (result,) = await other.translate(["gfe de"], beams=2)
    assert result.text == client.translate(["gfe de"], beams=2)[0].text


# -- conditions ------------------------------------------------------------------------------------------------------


def test_a_session_is_stepped_from_a_text_piece_by_piece(client: Client) -> None:
    whole = client.step("translate", "gfab", begin="abc de", returns="all")
    first = client.step("translate", begin="abc de", returns="all")
    assert (first.step, first.tokens, first.outputs["attention"].shape) == (1, ["\n"], (1, 6))
    rest = client.step("translate", "gfab", state=first.state, returns="all")
    made = np.concatenate([first.outputs["logits"], rest.outputs["logits"]])
    np.testing.assert_allclose(made, whole.outputs["logits"], atol=1e-5)


def test_generation_from_a_condition_goes_on_from_its_state(client: Client) -> None:
    (whole,) = client.generate(condition="abc de", **GREEDY).choices
    (first,) = client.generate(condition={"text": "abc de"}, **{**GREEDY, "max_steps": 3}).choices
    (rest,) = client.generate(state=first.state, **{**GREEDY, "max_steps": 5}).choices
    assert (first.text or "") + (rest.text or "") == whole.text
    events = client.generate_stream(condition="abc de", **GREEDY)
    assert "".join(event.text or "" for event in events) == whole.text
    (continued,) = client.generate(first.text, condition="abc de", **{**GREEDY, "max_steps": 5}).choices
    assert continued.text == rest.text


def test_the_best_of_a_search_are_choices_with_scores_and_states(client: Client) -> None:
    (best,) = client.translate(["abc de"], beams=4, alternatives=4)
    choices = client.generate(condition="abc de", model="translate", beams=4, n=4, max_steps=16).choices
    assert [choice.text for choice in choices] == [best.text, *(each.text for each in best.alternatives)]
    for choice, each in zip(choices, [best, *best.alternatives], strict=True):
        assert choice.score == pytest.approx(each.score, abs=2e-4)
        assert choice.seed is None
        assert choice.state


@pytest.mark.parametrize(
    ("model", "inputs", "condition", "member"),
    [
        ("captioner", "abc", VECTOR, {"vector": VECTOR.tolist()}),
        ("captioner", "abc", {"vector": VECTOR}, {"vector": VECTOR.tolist()}),
        ("captioner", None, VECTOR.tolist(), {"vector": VECTOR.tolist()}),
        ("rows-reader", [[0.5, -0.5]], ROWS, {"inputs": ROWS.tolist()}),
        ("rows-reader", [[0.5, -0.5]], {"inputs": ROWS.tolist()}, {"inputs": ROWS.tolist()}),
    ],
)
def test_conditions_of_every_kind_are_those_of_requests(
    client: Client, conditioned: Server, model: str, inputs: Any, condition: Any, member: dict[str, Any]
) -> None:
    found = client.step(model, inputs, begin=condition)
    steps = {} if inputs is None else {"text" if model == "captioner" else "inputs": inputs}
    (result,) = answer(conditioned, "/v1/step", model=model, items=[{"begin": member, **steps}])
    assert found.step == result["step"]
    for name, made in found.outputs.items():
        np.testing.assert_allclose(made, result["outputs"][name], atol=1e-5)


def test_several_sessions_begin_in_one_request_and_items_fail_alone(client: Client) -> None:
    items = [
        StepItem("ab", condition="abc", id="a"),
        StepItem(None, condition="gfe de"),
        StepItem("ab", condition=""),
        StepItem("ab"),
    ]
    batch = client.step_many("translate", items)
    assert [(error.code, error.field) for error in batch.errors.values()] == [
        ("empty_input", "items[2].begin.text"),
        ("invalid_request", "items[3]"),
    ]
    assert [(batch[0].id, batch[0].step), (batch[1].id, batch[1].step)] == [("a", 3), (None, 1)]
    generated = client.generate_many([StepItem(None, condition="abc"), StepItem("g", condition="abc")], **GREEDY)
    assert [result.choices[0].steps <= 8 for result in generated] == [True, True]
    with pytest.raises(ApiError, match="invalid_request") as refused:
        client.step("translate", "a", state=batch[0].state, begin="abc")
    assert refused.value.field == "items[0].begin"


@pytest.mark.parametrize("condition", [b"abc", 1.0, np.zeros((2, 2, 2)), {"a"}, [True]])
def test_a_condition_that_requests_have_no_form_for_is_refused_here(client: Client, condition: Any) -> None:
    with pytest.raises(ValueError, match=r"items\[0\].begin .*; give a text, a vector, rows"):
        client.step("captioner", "abc", begin=condition)
    with pytest.raises(ValueError, match=r"items\[0\].condition .*; give a text, a vector, rows"):
        client.generate(condition=condition, model="captioner")


def test_steps_are_left_out_only_behind_a_condition(client: Client) -> None:
    with pytest.raises(ValueError, match="inputs is None; give k rows"):
        client.step("translate")
