"""Read: a text scored word by word as it is typed, with the state carried, beside the model that reads it whole."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browsing import Visit, scored_words, write
from conftest import Server
from playwright.sync_api import Route, expect

TEXT = "it is slow but quite wonderful "
ALL_WORDS = TEXT.split()


def read_of(server: Server, text: str) -> list[list[float]]:
    """Return what the live model answers after each token of a text, in one request."""
    body = {"model": "sentiment-live", "return": "all", "items": [{"text": text}]}
    scores: list[list[float]] = server.post("/v1/step", body).json()["results"][0]["outputs"]["scores"]
    return scores


def verdict_of(server: Server, text: str, model: str = "sentiment") -> dict[str, Any]:
    body = {"model": model, "inputs": [text], "scores": "all"}
    result: dict[str, Any] = server.post("/v1/sentiment", body).json()["results"][0]
    return result


def exchanges(visit: Visit) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the item of each step that was asked for so far, with its result."""
    steps = [call for call in visit.calls if call.url.endswith("/v1/step")]
    answers = [call.response().json() for call in steps]  # type: ignore[union-attr]  # each was waited for
    return [
        (call.post_data_json["items"][0], answer["results"][0]) for call, answer in zip(steps, answers, strict=True)
    ]


def test_words_are_scored_while_they_are_typed_with_the_state_carried(visit: Visit, page_server: Server) -> None:
    """Each complete word is sent once, with the token of the word before, and the scores are those of the whole."""
    page = visit.open("#read")
    write(page, "")
    before = len(visit.sent("/v1/step"))
    page.get_by_label("Text", exact=True).press_sequentially(TEXT)
    expect(scored_words(page)).to_have_count(len(ALL_WORDS))
    steps = exchanges(visit)[before:]
    assert [item["text"] for item, _ in steps] == ALL_WORDS
    assert [item.get("state") for item, _ in steps] == [None, *(result["state"] for _, result in steps[:-1])]
    polarities = [positive - negative for negative, positive in read_of(page_server, TEXT)]
    assert len(polarities) == len(ALL_WORDS)
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in page.locator(".words small").all_inner_texts()]
    assert shown == pytest.approx(polarities, abs=0.0051)  # two digits are shown
    for word, polarity in zip(scored_words(page).all(), polarities, strict=True):
        strength = sum(abs(polarity) >= least for least in (0.2, 0.5, 0.8))
        assert word.get_attribute("class") == (
            f"{'negative' if polarity < 0 else 'positive'}-{strength}" if strength else "neutral"
        )


def test_an_edit_goes_back_to_the_last_word_that_stands(visit: Visit) -> None:
    """Only what is new from there is sent, with the token kept for that word."""
    page = visit.open("#read")
    write(page, "it is good and long ")
    known = {item["text"]: result["state"] for item, result in exchanges(visit)[-5:]}
    before = len(visit.sent("/v1/step"))
    write(page, "it is bad and long ")
    steps = exchanges(visit)[before:]
    assert [item["text"] for item, _ in steps] == ["bad", "and", "long"]
    assert steps[0][0]["state"] == known["is"]
    expect(page.get_by_text("Went back: 3 words sent, with the state token after “is”.")).to_be_visible()
    before = len(visit.sent("/v1/step"))
    write(page, "it is bad ")
    assert len(visit.sent("/v1/step")) == before


def test_a_word_counts_when_it_is_complete(visit: Visit) -> None:
    page = visit.open("#read")
    write(page, "")
    field = page.get_by_label("Text", exact=True)
    field.press_sequentially("a warm film")
    expect(scored_words(page)).to_have_text([re.compile("^a"), re.compile("^warm")])
    field.press_sequentially(". I don't give it 3.5 for a well-known")
    page.keyboard.press("Tab")
    words = ["a", "warm", "film.", "I", "don't", "give", "it", "3.5", "for", "a", "well-known"]
    expect(scored_words(page)).to_have_text([re.compile(f"^{re.escape(word)}[+\N{MINUS SIGN}]") for word in words])
    asked = [body["items"][0]["text"] for body in visit.sent("/v1/step")]
    assert asked[-len(words) :] == words  # and no part of one
    expect(page.get_by_text("After “well-known”: negative 0.")).to_be_visible()


def test_a_long_text_is_read_as_far_as_said(visit: Visit) -> None:
    """Each word is a call: of a text of many words the first thousand are read one by one; none is drawn twice."""
    page = visit.open("#read")
    write(page, "")
    step = {"index": 0, "version": "1", "outputs": {"scores": [0.25, 0.75]}, "state": "s", "step": 1, "expires_at": 0}
    page.route("**/v1/step", lambda route: route.fulfill(json={"results": [step]}))
    page.evaluate(
        """() => { window.added = 0; new MutationObserver((changes) => {
          for (const { addedNodes } of changes) window.added += addedNodes.length;
        }).observe(document.querySelector(".words"), { childList: true }); }"""
    )
    page.get_by_label("Text", exact=True).fill("word " * 1500)
    expect(page.get_by_text("Read one by one are the first 1,000 words; 500 more are not.")).to_be_visible()
    expect(scored_words(page)).to_have_count(1000)
    assert page.evaluate("window.added") == 2000  # waiting, and scored


def test_the_verdict_is_what_the_service_answers_for_the_text(visit: Visit, page_server: Server) -> None:
    page = visit.open("#read")
    for model in ("sentiment", "spam"):
        page.get_by_label("Whole-text model").select_option(model)
        write(page, TEXT)
        answer = verdict_of(page_server, TEXT.strip(), model)
        expect(page.locator(".verdict")).to_have_text(answer["label"])
        for label, score in answer["scores"].items():
            bar = page.locator(".bars li").filter(has=page.get_by_text(label, exact=True))
            expect(bar.locator(".number")).to_have_text(f"{score:.3f}")
            share = bar.locator(".bar-filled").evaluate("bar => parseFloat(bar.style.width)")
            assert share == pytest.approx(100 * score, abs=1e-3)


def test_the_examples_of_a_model_say_truly_whether_it_errs(visit: Visit, page_server: Server) -> None:
    """What a person reads stands beside what the model answers; each model errs in one example at least."""
    page = visit.open("#read")
    for model in ("sentiment", "spam"):
        page.get_by_label("Whole-text model").select_option(model)
        told = []
        for example in page.get_by_role("group", name="Examples").get_by_role("button").all():
            example.click()
            text = example.inner_text()
            answer = verdict_of(page_server, text, model)
            expect(page.get_by_label("Text", exact=True)).to_have_value(text)
            scores = [f"{score:.3f}" for score in answer["scores"].values()]
            expect(page.locator(".bars .number")).to_have_text(scores)  # of this example, and no more of the one before
            expect(page.locator(".verdict")).to_have_text(answer["label"])
            told.append(page.get_by_text("A person reads this as").inner_text())
            read = re.fullmatch(rf"A person reads this as (\w+); {model} (agrees|errs)\.", told[-1])
            assert read is not None
            assert (read[1] == answer["label"]) == (read[2] == "agrees")
        assert {line.split()[-1] for line in told} == {"agrees.", "errs."}
        write(page, "something else ")
        expect(page.get_by_text("A person reads this as")).to_have_count(0)


def test_a_late_answer_never_stands_over_a_newer_one(visit: Visit, page_server: Server) -> None:
    """One request is under way at a time; while it is, texts replace one another, and the newest is asked for next."""
    page = visit.open("#read")
    write(page, "good ")
    let_go = [visit.hold(path) for path in ("/v1/sentiment", "/v1/step")]
    before = {path: len(visit.sent(path)) for path in ("/v1/sentiment", "/v1/step")}
    field = page.get_by_label("Text", exact=True)
    with page.expect_request("**/v1/step"), page.expect_request("**/v1/sentiment"):
        field.fill("bad ")
    for text in ("awful film ", "dull film ", "great film "):
        field.fill(text)
    for each in let_go:
        each()
    expect(scored_words(page)).to_have_text([re.compile("^great"), re.compile("^film")])
    expect(page.locator(".verdict")).to_have_text(verdict_of(page_server, "great film")["label"])
    asked = visit.sent("/v1/sentiment")[before["/v1/sentiment"] :]
    assert [body["inputs"] for body in asked] == [["bad"], ["great film"]]
    steps = [body["items"][0] for body in visit.sent("/v1/step")[before["/v1/step"] :]]
    assert [item["text"] for item in steps] == ["bad", "great", "film"]
    assert "state" not in steps[1]


def test_an_answer_of_the_model_before_is_dropped(visit: Visit, page_server: Server) -> None:
    page = visit.open("#read")
    let_go = visit.hold("/v1/sentiment")
    with page.expect_request("**/v1/sentiment"):
        page.get_by_label("Text", exact=True).fill("good ")
    page.get_by_label("Whole-text model").select_option("spam")
    let_go()
    expect(page.get_by_label("Text", exact=True)).to_have_value("good ")  # of one's own, and no example
    expect(page.locator(".verdict")).to_have_text(verdict_of(page_server, "good", "spam")["label"])
    expect(page.locator(".bars li")).to_have_count(2)
    assert "ham" in page.locator(".bars").inner_text()


def test_a_refusal_says_what_was_wrong_and_what_would_be_right(visit: Visit, page_server: Server) -> None:
    page = visit.open("#read")
    visit.expected.append("status of 413")
    limit = page_server.client.get("/v1/info").json()["limits"]["max_text_chars"]
    page.get_by_label("Text", exact=True).fill("a" * (limit + 1) + " ")
    alerts = page.get_by_role("alert")
    expect(alerts).to_have_count(2)
    for text in alerts.all_inner_texts():
        assert f"the text has {limit + 1} characters; at most {limit}" in text
        assert re.search(rf"limit {limit} · code item_too_large", text)
    write(page, "fine ")
    expect(alerts).to_have_count(0)


def test_a_token_that_will_not_do_is_told_and_reading_begins_again_when_asked(visit: Visit) -> None:
    """Never silently from nothing: the service's refusal is shown with the way out."""

    page = visit.open("#read")
    write(page, "it is ")
    (token,) = {result["state"] for item, result in exchanges(visit) if item["text"] == "is"}

    def damage(route: Route) -> None:
        assert route.request.post_data is not None
        route.continue_(post_data=route.request.post_data.replace(token, "A" * len(token)))

    visit.context.route("**/v1/step", damage)
    visit.expected.append("status of 422")
    page.get_by_label("Text", exact=True).fill("it is good ")
    expect(page.get_by_role("alert")).to_contain_text("the state token is damaged")
    before = len(visit.sent("/v1/step"))
    page.get_by_role("button", name="Read from the start").click()
    expect(scored_words(page)).to_have_count(3)
    expect(page.get_by_role("alert")).to_have_count(0)
    items = [body["items"][0] for body in visit.sent("/v1/step")[before:]]
    assert [item["text"] for item in items] == ["it", "is", "good"]
    assert "state" not in items[0]


def test_all_of_it_works_by_keyboard_alone(visit: Visit, page_server: Server) -> None:
    page = visit.open()
    reached = []
    while not reached or reached[-1] != "Whole-text model":
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        reached.append(focused.evaluate("node => node.labels?.[0]?.firstChild.textContent ?? node.textContent"))
        if reached[-1] == "Text":
            page.keyboard.press("Control+a")
            page.keyboard.type("a warm, funny film. ")
        if reached[-1] == "Not bad at all.":
            page.keyboard.press("Enter")
            expect(scored_words(page)).to_have_text([re.compile(f"^{word}") for word in ("Not", "bad", "at", r"all\.")])
    assert (
        reached.index("Read") < reached.index("Text") < reached.index("Not bad at all.") < reached.index("Live model")
    )
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Whole-text model")).to_have_value("spam")
    expect(page.locator(".bars")).to_contain_text("ham")
