"""Translate: the service's translations with their scores, and what each piece attended to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_conditions
import tiny_writers
from browsing import LOOKS, PHONE, Visit, VisitFactory
from conftest import Server
from playwright.sync_api import Locator, Page, expect
from test_page_requests import newest, run_in_node, run_in_python, run_in_shell, without_timing

TEXT = "abc de"
ASKED = {"model": "translate", "inputs": [TEXT], "beams": 4, "length_penalty": 1, "alternatives": 4, "attention": True}


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over a translator, one into blanks that does not tell what it attends to, and a writer."""
    models = tmp_path_factory.mktemp("models")
    tiny_conditions.translator(models, seed=37)
    logits = tiny.tensor("logits", "float32", "batch", "time", tiny_conditions.IDS)
    tiny_conditions.translator(models, name="untold", outputs=[logits])
    tiny_writers.generator(models)
    running = Server(models, tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


@pytest.fixture
def page_visit(visits: VisitFactory, translators: Server) -> Visit:
    return visits(translators.url)


def ask(server: Server, **changes: Any) -> dict[str, Any]:
    """Return what the service answers to what the page asks for."""
    result: dict[str, Any] = server.post("/v1/translate", {**ASKED, **changes}).json()["results"][0]
    return result


def translate(page: Page, text: str = TEXT) -> dict[str, Any]:
    """Have another text translated, wait until the answer is shown, and none to the one before, and return it."""
    with page.expect_response(lambda answer: answer.request.post_data_json["inputs"] == [text]) as answered:
        page.get_by_label("Text to translate").fill(text)
    answer: dict[str, Any] = answered.value.json()
    expect(page.get_by_text(f"Score {signed(answer['results'][0]['score'])}, ended by")).to_be_visible()
    return answer


def signed(score: float) -> str:
    return f"{score:+.4f}".replace("-", "\N{MINUS SIGN}")


def listed(page: Page, name: str) -> Locator:
    return page.get_by_role("list", name=name, exact=True)


def pieces(page: Page) -> Locator:
    return listed(page, "Translation").get_by_role("button")


def shown(piece: str) -> str:
    return piece.replace(" ", "\N{OPEN BOX}").replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")


def percents(weights: list[float]) -> list[str]:
    return [f"{100 * weight:.0f}" for weight in weights]


def check_matrix(page: Page, weights: list[list[float]]) -> None:
    script = "rows => rows.map((row) => [...row.querySelectorAll('td')].map(({ title }) => Number(title)))"
    drawn: list[list[float]] = page.locator(".matrix tbody tr").evaluate_all(script)
    np.testing.assert_allclose(drawn, weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_translations_suit_every_reader(
    visits: VisitFactory, translators: Server, scheme: str, size: dict[str, int]
) -> None:
    """No serious fault that axe-core finds, and nothing to scroll sideways, with a text that is warned of."""
    visit = visits(translators.url, color_scheme=scheme, viewport=size)
    page = visit.open("#translate")
    translate(page, "cabbage " * 6)
    expect(page.locator(".matrix")).to_be_visible()
    assert visit.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]


def test_translations_are_the_services_with_their_scores(page_visit: Visit, translators: Server) -> None:
    page = page_visit.open("#translate")
    translate(page)
    assert page_visit.sent("/v1/translate")[-1] == ASKED
    result = ask(translators)
    found = [result, *result["alternatives"]]
    assert len(found) == 4
    each = listed(page, "Translations").get_by_role("listitem")
    assert each.get_by_role("button").all_text_contents() == [one["text"] for one in found]
    expect(each.locator(".number")).to_have_text([signed(one["score"]) for one in found])
    for place, one in enumerate(found):
        each.nth(place).get_by_role("button").click()
        assert page.locator(".translation").text_content() == one["text"]
        expect(page.get_by_text(f"Score {signed(one['score'])}, ended by its length.")).to_be_visible()
        check_matrix(page, one["attention"]["weights"])
    expect(page.get_by_text("Read: 6 tokens, 0 % of them unknown.")).to_be_visible()


def test_settings_are_those_of_the_call(page_visit: Visit, translators: Server) -> None:
    page = page_visit.open("#translate")
    translate(page)
    page.get_by_label("Length penalty").fill("10")
    page.get_by_label("Beams").fill("1")
    result = ask(translators, beams=1, length_penalty=2.5, alternatives=1)
    assert "alternatives" not in result
    expect(listed(page, "Translations").get_by_role("listitem")).to_have_count(1)
    assert page.locator(".translation").text_content() == result["text"]
    expect(page.get_by_text(f"Score {signed(result['score'])}, ended by")).to_be_visible()
    check_matrix(page, result["attention"]["weights"])


def test_attention_is_a_table_of_the_services_weights(page_visit: Visit, translators: Server) -> None:
    """And of each weight a shade."""
    page = page_visit.open("#translate")
    translate(page)
    attention = ask(translators)["attention"]
    assert len(attention["tokens"]) > 2
    check_matrix(page, attention["weights"])
    table = page.get_by_role("group", name="Attention, in %").get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text([*map(shown, attention["source"])])
    expect(table.get_by_role("rowheader")).to_have_text([*map(shown, attention["tokens"])])
    for row, weights in zip(table.locator("tbody tr").all(), attention["weights"], strict=True):
        assert row.get_by_role("cell").all_inner_texts() == percents(weights)
        shades = row.get_by_role("cell").evaluate_all(
            "all => all.map((cell) => [cell.style.getPropertyValue('--weight'), getComputedStyle(cell).background])"
        )
        assert [float(weight) for weight, _ in shades] == weights
        assert len({shade for _, shade in shades}) == len({*weights})


def test_a_piece_that_is_pointed_at_shows_what_it_attended_to(page_visit: Visit, translators: Server) -> None:
    page = page_visit.open("#translate")
    translate(page)
    attention = ask(translators)["attention"]
    read = listed(page, "Text").get_by_role("listitem")

    def looks_at(place: int) -> None:
        weights = attention["weights"][place]
        told = [f"{shown(piece)}{share} %" for piece, share in zip(attention["source"], percents(weights), strict=True)]
        expect(read).to_have_text(told)
        shades = read.evaluate_all("all => all.map(({ style }) => Number(style.getPropertyValue('--weight')))")
        assert shades == weights
        most = max(range(len(weights)), key=weights.__getitem__)
        name = shown(attention["source"][most])
        expect(page.get_by_text(f"attended to “{name}” {percents(weights)[most]} %, ")).to_be_visible()
        expect(page.locator(".matrix tr[data-looked-at] th")).to_have_text(shown(attention["tokens"][place]))

    looks_at(0)
    pieces(page).nth(2).hover()
    looks_at(2)
    page.locator(".matrix tbody tr").nth(1).hover()
    looks_at(1)
    pieces(page).nth(0).focus()
    looks_at(0)


def test_a_piece_that_is_tapped_shows_what_it_attended_to(visits: VisitFactory, translators: Server) -> None:
    page = visits(translators.url, viewport=PHONE, has_touch=True, is_mobile=True).open("#translate")
    translate(page)
    pieces(page).nth(3).tap()
    weights = ask(translators)["attention"]["weights"][3]
    shares = listed(page, "Text").locator("small")
    expect(shares).to_have_text([f"{share} %" for share in percents(weights)])


def test_pieces_are_gone_through_by_keyboard(page_visit: Visit) -> None:
    """The list is one stop of the Tab key; each piece says what it attended to."""
    page = page_visit.open("#translate")
    translate(page)
    page.get_by_label("Translator").focus()
    page.keyboard.press("Tab")
    expect(pieces(page).nth(0)).to_be_focused()
    last = pieces(page).count() - 1
    for key, at in (("ArrowRight", 1), ("End", last), ("ArrowRight", last), ("ArrowLeft", last - 1), ("Home", 0)):
        page.keyboard.press(key)
        piece = pieces(page).nth(at)
        expect(piece).to_be_focused()
        told = piece.get_attribute("aria-label")
        assert told is not None
        expect(page.get_by_text(f"attended to {told.split(': ', 1)[1]}.")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("group", name="Attention, in %")).to_be_focused()
    page.keyboard.press("Tab")
    expect(listed(page, "Translations").get_by_role("button").first).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(listed(page, "Translations").get_by_role("button").nth(1)).to_have_attribute("aria-pressed", "true")


def test_a_long_text_is_translated_with_the_services_warning(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    translate(page, "abcdefg" * 3)
    warning = "the text has 21 tokens; the longest that the model was trained on has 16"
    expect(page.locator(".warnings li:visible")).to_have_text([warning])
    translate(page)
    expect(page.locator(".warnings li:visible")).to_have_count(0)


def test_a_table_that_would_be_too_large_is_drawn_as_far_as_said(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    translate(page, "abcdefg " * 150)
    count = pieces(page).count()
    assert count > 8
    left = f"Of the translation these are the first 8 pieces; {count - 8} more are not drawn."
    expect(page.get_by_text(left)).to_be_visible()
    expect(page.locator(".matrix tbody tr")).to_have_count(8)


def test_a_refusal_is_told_and_what_is_too_much_can_be_left_out(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    page.get_by_label("Beams").fill("16")
    page_visit.expected.append("status of 413")
    page.get_by_label("Text to translate").fill("abcdefg " * 400)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("at most 500000 in one answer: send fewer texts")
    expect(alert).to_contain_text("field inputs · limit 500000 · code batch_too_large")
    expect(page.locator(".translation")).to_have_count(0)
    expect(listed(page, "Translations").get_by_role("button")).to_have_count(0)
    expect(page.locator(".matrix")).to_be_hidden()
    page.get_by_role("button", name="Translate without attention").click()
    expect(listed(page, "Translations").get_by_role("button")).to_have_count(16)
    expect(alert).to_have_count(0)
    expect(page.locator(".matrix")).to_be_hidden()
    page.get_by_label("Text to translate").fill("a" * 100_001)
    expect(alert).to_contain_text("code item_too_large")
    expect(page.get_by_role("button", name="Translate without attention")).to_have_count(0)
    translate(page)
    expect(alert).to_have_count(0)


def test_a_text_without_words_is_not_sent(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    translate(page)
    before = len(page_visit.sent("/v1/translate"))
    page.get_by_label("Text to translate").fill(" ")
    expect(page.get_by_text("Nothing to translate yet")).to_be_visible()
    expect(listed(page, "Translations").get_by_role("listitem")).to_have_count(0)
    assert len(page_visit.sent("/v1/translate")) == before


def test_a_late_translation_never_stands_over_a_newer_one(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    translate(page)
    let_go = page_visit.hold("/v1/translate")
    before = len(page_visit.sent("/v1/translate"))
    with page.expect_request("**/v1/translate"):
        page.get_by_label("Text to translate").fill("a")
    for text in ("ab", "abc", "gfe"):
        page.get_by_label("Text to translate").fill(text)
    let_go()
    expect(listed(page, "Text").get_by_role("listitem")).to_have_text([re.compile(f"^{letter}") for letter in "gfe"])
    assert [body["inputs"] for body in page_visit.sent("/v1/translate")[before:]] == [["a"], ["gfe"]]


def test_a_model_that_does_not_tell_what_it_attends_to_translates(page_visit: Visit, translators: Server) -> None:
    """Here into blanks, which are told as such."""
    page = page_visit.open("#translate")
    translate(page)
    page.get_by_label("Translator").select_option("untold")
    result = ask(translators, model="untold", attention=False)
    expect(page.get_by_text(f"Score {signed(result['score'])}, ended by the model.")).to_be_visible()
    assert "attention" not in page_visit.sent("/v1/translate")[-1]
    expect(listed(page, "Translations").get_by_role("button")).to_have_text(["(blank)"] * 4)
    expect(page.locator(".matrix")).to_be_hidden()


def test_models_are_in_the_parts_that_run_them(visits: VisitFactory, translators: Server, server: Server) -> None:
    """Translate is there for models that translate alone; what begins from a condition is not offered for writing."""
    page = visits(server.url).open()
    expect(page.get_by_role("tab", name="Translate")).to_have_count(0)
    page = visits(translators.url).open("#translate")
    expect(page.get_by_label("Translator").locator("option")).to_have_text(["translate", "untold"])
    page.get_by_role("tab", name="Write").click()
    expect(page.get_by_label("Model", exact=True)).to_have_count(0)  # there is one that writes, the generator
    page.get_by_role("tab", name="Models").click()
    page.locator("details.box > summary").filter(has=page.get_by_role("heading", name="translate", exact=True)).click()
    expect(page.get_by_text("Try it: Translate · runs by POST /v1/translate.")).to_be_visible()
    expect(page.get_by_role("row", name="condition source int32")).to_be_visible()
    expect(page.get_by_text("; 16 bytes more for each entry of its condition.")).to_be_visible()


def test_lines_translate_again(page_visit: Visit) -> None:
    page = page_visit.open("#translate")
    made = translate(page)
    lines = newest(page, "/v1/translate")
    in_script = lines["JavaScript"].replace("console.log(answer)", "console.log(JSON.stringify(answer))")
    for again in (run_in_shell(lines["curl"]), run_in_node(in_script)):
        assert without_timing(json.loads(again)) == without_timing(made)
    (result,), (in_python,) = made["results"], run_in_python(lines["Python"])["answer"]
    found = [result, *result["alternatives"]]
    assert [one.text for one in (in_python, *in_python.alternatives)] == [one["text"] for one in found]
    np.testing.assert_allclose(in_python.attention.weights, result["attention"]["weights"])
