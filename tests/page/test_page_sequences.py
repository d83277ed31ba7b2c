"""Write, Tag, Transform and Listen: sequences out, as the service answers them."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
import tiny_sequences
import tiny_writers
import wav
from browsing import LOOKS, Visit, VisitFactory
from conftest import Server, ServerFactory
from playwright.sync_api import Locator, Page, Route, expect
from test_page_requests import newest, run_in_node, run_in_python, run_in_shell

PARTS = ["Write", "Tag", "Transform", "Listen"]


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over models that write, tag, transform and listen."""
    models = tmp_path_factory.mktemp("models")
    tiny_sequences.tagger(models)
    numbered = tiny.tensor("scores", "float32", "batch", "time", 3, labels=["7", "1", "3"])
    settings = tiny.text_settings(polarity=None, max_length=64)
    tiny_sequences.live_tagger(models, text=settings, outputs=[numbered])
    tiny_sequences.cleaner(models)
    tiny_sequences.cleaner(models, samples=4, name="cleaner-frames")
    tiny_sequences.cleaner(models, samples=3, rate=None, name="rows")
    tiny_sequences.widener(models)
    tiny_sequences.listener(models)
    tiny_writers.generator(models)
    tiny_writers.octet_writer(models)
    running = Server(models, tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


@pytest.fixture
def page_visit(visits: VisitFactory, sequences: Server) -> Visit:
    return visits(sequences.url)


def answer(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the first result of a call."""
    result: dict[str, Any] = server.post(path, body).json()["results"][0]
    return result


def pieces(page: Page, text: int = 1) -> Locator:
    return page.get_by_role("group", name=f"Text {text}", exact=True).get_by_role("button")


def written(page: Page, text: int = 1) -> str:
    return "".join(pieces(page, text).all_text_contents())


def write(page: Page) -> None:
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_text(re.compile("Text 1: .* ended by"))).to_be_visible()


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_each_part_suits_every_reader(
    visits: VisitFactory, sequences: Server, scheme: str, size: dict[str, int]
) -> None:
    """No serious fault that axe-core finds, and nothing to scroll sideways, with answers shown."""
    visit = visits(sequences.url, color_scheme=scheme, viewport=size)
    page = visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    write(page)
    pieces(page).nth(3).click()
    for title in PARTS:
        page.get_by_role("tab", name=title).click()
        panel = page.get_by_role("tabpanel")
        if title == "Tag":
            panel.locator(".tags button").first.click()
        if title == "Listen":
            panel.locator(".bars li").first.wait_for()
        if title == "Transform":
            panel.get_by_text("root mean square").wait_for()
        assert (title, visit.violations()) == (title, [])
        assert (title, page.evaluate("document.documentElement.scrollWidth")) == (title, size["width"])


# -- Write -----------------------------------------------------------------------------------------------------------


def test_a_text_is_what_the_service_writes_with_how_likely_it_was(page_visit: Visit, sequences: Server) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Seed").fill("7")
    write(page)
    body = {"model": "generator", "items": [{"prompt": "abc"}], "seed": 7, "max_steps": 200, "temperature": 0.8}
    (choice,) = answer(sequences, "/v1/generate", {**body, "probabilities": True})["choices"]
    assert written(page) == choice["text"]
    titles = [piece.get_attribute("title") for piece in pieces(page).all()]
    assert [title.rsplit(", ")[1] for title in titles if title] == [f"{100 * p:.1f} %" for p in choice["probabilities"]]
    assert len(set(pieces(page).evaluate_all("all => all.map((each) => each.className)"))) > 1


def test_a_text_goes_on_from_the_state_of_the_place_that_is_chosen(page_visit: Visit) -> None:
    """A rewind leaves what came after it; a fork leaves the text as it was, and writes another beside it."""
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    write(page)
    whole = written(page)
    pieces(page).nth(9).click()
    expect(page.get_by_text("Text 1, piece 10,")).to_be_visible()
    page.get_by_role("button", name="Fork here").click()
    expect(page.get_by_text(re.compile("Text 2: .* ended by"))).to_be_visible()
    assert (written(page), written(page, 2)[:10]) == (whole, whole[:10])
    assert written(page, 2) != whole
    expect(page.get_by_label("Seed")).to_have_value("2")
    pieces(page).nth(19).click()
    page.get_by_role("button", name="Rewind to here").click()
    expect(page.get_by_text(re.compile("Text 1: 220 pieces"))).to_be_visible()
    assert written(page)[:20] == whole[:20]
    assert written(page)[20:] != whole[20:]
    first, *others = page_visit.sent("/v1/generate")
    assert first["items"] == [{"prompt": "abc"}]
    assert [list(body["items"][0]) for body in others] == [["state"], ["state"]]
    assert [body["seed"] for body in (first, *others)] == [1, 2, 3]


def test_the_same_seed_goes_on_as_the_whole(page_visit: Visit, sequences: Server) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    write(page)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text(re.compile("Text 1: 400 pieces"))).to_be_visible()
    body = {"model": "generator", "items": [{"prompt": "abc"}], "seed": 1, "max_steps": 400, "temperature": 0.8}
    assert written(page) == answer(sequences, "/v1/generate", body)["choices"][0]["text"]


def test_a_text_that_is_stopped_stands_and_goes_on(page_visit: Visit) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Length").fill("20")
    page.evaluate(
        """() => new MutationObserver((_, watching) => {
          const stop = document.querySelector(".acts button:nth-child(2)");
          if (document.querySelectorAll(".piece").length < 5) return;
          watching.disconnect();
          stop.click();
        }).observe(document.querySelector(".texts"), { childList: true, subtree: true })"""
    )
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_text(re.compile("Text 1: .* stopped; seed 1"))).to_be_visible()
    count = pieces(page).count()
    assert 4 < count < 500
    page.get_by_label("Length").fill("1")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text(re.compile("Text 1: .* ended by its length"))).to_be_visible()
    assert pieces(page).count() == count + 25


def test_a_text_goes_on_after_an_end_without_a_state(page_visit: Visit, sequences: Server) -> None:
    """As the service ends a text whose state it cannot keep: the last piece keeps the state that it came with."""
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Length").fill("1")

    def lose_state(route: Route) -> None:
        *told, last, summary, _ = route.fetch().text().split("\n\n")
        end = {**json.loads(last.removeprefix("data: ")), "text": "", "finish": "error"}
        del end["state"], end["probabilities"]
        route.fulfill(
            content_type="text/event-stream", body="\n\n".join([*told, f"data: {json.dumps(end)}", summary, ""])
        )

    page.context.route(f"{sequences.url}/v1/generate", lose_state, times=1)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_text("Text 1: 24 pieces, ended by an error")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("Text 1: 49 pieces, ended by its length")).to_be_visible()
    body = {"model": "generator", "items": [{"prompt": "abc"}], "seed": 1, "max_steps": 49, "temperature": 0.8}
    assert written(page) == answer(sequences, "/v1/generate", body)["choices"][0]["text"]


def test_a_character_of_several_tokens_is_as_likely_as_they_are_together(page_visit: Visit, sequences: Server) -> None:
    """And a text goes on from the end of a character, not from within the next."""
    page = page_visit.open("#write")
    page.get_by_role("tabpanel").get_by_role("combobox").select_option("octets")
    page.get_by_label("Prompt").fill("a")
    page.get_by_label("Length").fill("8")
    write(page)
    body = {"model": "octets", "items": [{"prompt": "a"}], "seed": 1, "max_steps": 200, "temperature": 0.8}
    (choice,) = answer(sequences, "/v1/generate", {**body, "probabilities": True})["choices"]
    assert written(page) == choice["text"]
    asked = {**body, "probabilities": True, "stream": True, "state_every": 1}
    told = sequences.post("/v1/generate", asked).text.split("\n\n")
    expected, text, since = [], "", 1.0
    for event in (json.loads(line.removeprefix("data: ")) for line in told[:-2]):
        since *= math.prod(event["probabilities"])
        text += event["text"]
        if text and "state" in event:  # there is none while a character is unfinished
            expected.append((text, event["step"], since))
            text, since = "", 1.0
    assert len(expected) < 200
    titles = [str(piece.get_attribute("title")).rsplit(", ", 1)[1] for piece in pieces(page).all()]
    assert titles == [f"{100 * share:.1f} %" for *_, share in expected]
    steps = [step for _, step, _ in expected]
    place = next(place for place, step in enumerate(steps[:-1]) if steps[place + 1] > step + 1)
    pieces(page).nth(place).click()
    expect(page.get_by_text(f"The state after step {steps[place]} is in this page")).to_be_visible()


def test_a_text_is_gone_through_by_keyboard(page_visit: Visit) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    write(page)
    page.get_by_role("button", name="Fork here").focus()
    page.keyboard.press("Tab")
    for key, at in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 199)):
        page.keyboard.press(key)
        expect(pieces(page).nth(at)).to_be_focused()
    page.keyboard.press("Enter")
    expect(pieces(page).nth(199)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Fork here")).to_be_enabled()


def test_lines_write_the_same_text_again(page_visit: Visit) -> None:
    """In each form; those of Python and JavaScript give the events, as they come and as they are."""
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Length").fill("1")
    write(page)
    text = written(page)
    lines = newest(page, "/v1/generate")
    assert "".join(event.text or "" for event in run_in_python(lines["Python"])["answer"]) == text
    for made in (
        run_in_shell(lines["curl"]),
        json.loads(run_in_node(lines["JavaScript"].replace("(answer)", "(JSON.stringify(answer))"))),
    ):
        events = [json.loads(line.removeprefix("data: ")) for line in made.splitlines() if line]
        assert "".join(event.get("text", "") for event in events) == text


def test_settings_that_will_not_do_are_told(page_visit: Visit) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Seed").fill("1.5")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Seed is a whole number from 0 on.")
    page.get_by_label("Seed").fill("1")
    page.get_by_label("Prompt").fill("a" * 100_001)
    page_visit.expected.append("status of 413")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("code item_too_large")


def test_texts_stay_where_settings_will_not_do(page_visit: Visit) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    page.get_by_label("Length").fill("1")
    write(page)
    whole = written(page)
    pieces(page).nth(4).click()
    page.get_by_label("Top k").fill("0")
    for act in ("Rewind to here", "Fork here", "Go on", "Write"):
        page.get_by_role("button", name=act, exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("Top k is a whole number from 1 on.")
        assert (act, written(page), page.locator(".written").count()) == (act, whole, 1)
    expect(page.get_by_label("Seed")).to_have_value("1")
    page.get_by_label("Top k").fill("")
    page.get_by_role("button", name="Rewind to here").click()
    expect(page.get_by_text("Text 1: 30 pieces")).to_be_visible()


def test_a_button_that_writes_keeps_the_focus(page_visit: Visit) -> None:
    page = page_visit.open("#write")
    page.get_by_label("Prompt").fill("abc")
    start = page.get_by_role("button", name="Write", exact=True)
    start.press("Enter")
    expect(page.get_by_text(re.compile("Text 1: .* ended by"))).to_be_visible()
    expect(start).to_be_focused()


# -- Tag -------------------------------------------------------------------------------------------------------------


def test_words_have_the_labels_and_scores_of_the_service(page_visit: Visit, sequences: Server) -> None:
    page = page_visit.open("#tag")
    page.get_by_label("Text to tag").fill("a good film!")
    for model in ("tagger", "tagger-live"):
        page.get_by_label("Tagger").select_option(model)
        tokens = answer(sequences, "/v1/tag", {"model": model, "inputs": ["a good film!"], "scores": "all"})["tokens"]
        words = page.locator(".tags button")
        expect(words).to_have_text([f"{token['text']}{token['label']}" for token in tokens])
        for word, token in zip(words.all(), tokens, strict=True):
            expect(word).to_have_attribute("title", f"{token['label']} {token['score']:.3f}")
        words.nth(1).press("Enter")
        expect(page.get_by_text("“good”, characters 2 to 6")).to_be_visible()
        labels = page.locator(".bars li > span:first-child").all_inner_texts()
        shown = dict(zip(labels, page.locator(".bars .number").all_inner_texts(), strict=True))
        likeliest = sorted(tokens[1]["scores"].items(), key=lambda each: -each[1])
        assert [*shown.items()] == [(label, f"{score:.3f}") for label, score in likeliest]
        used = {token["label"] for token in tokens}
        expect(page.get_by_role("list", name="Labels").get_by_role("listitem")).to_have_count(len(used))


def test_a_text_without_words_has_no_tags(page_visit: Visit) -> None:
    page = page_visit.open("#tag")
    page.get_by_label("Text to tag").fill(" ")
    expect(page.get_by_text("Nothing to tag yet")).to_be_visible()
    expect(page.locator(".tags li")).to_have_count(0)


# -- Transform -------------------------------------------------------------------------------------------------------


def traces(page: Page) -> list[list[float]]:
    """Return what is drawn: the values before and after."""
    page.wait_for_function("() => document.querySelector('#panel-transform .chart').data?.length === 2")
    script = "document.querySelector('#panel-transform .chart').data.map(({ y }) => [...y])"
    found: list[list[float]] = page.evaluate(script)
    return found


def test_a_series_is_drawn_before_and_after(page_visit: Visit, sequences: Server) -> None:
    page = page_visit.open("#transform")
    page.get_by_role("tabpanel").get_by_role("combobox").select_option("cleaner-frames")
    page.get_by_label("Values", exact=True).fill("1, 2; 3\n4 5.5")
    expect(page.get_by_text("cleaner-frames: 5 values")).to_be_visible()
    body = {"model": "cleaner-frames", "items": [{"values": [1, 2, 3, 4, 5.5]}]}
    page.wait_for_function("() => document.querySelector('#panel-transform .chart').data?.[0]?.y.length === 5")
    before, after = traces(page)
    assert (before, after) == ([1, 2, 3, 4, 5.5], answer(sequences, "/v1/transform", body)["outputs"])


def test_an_example_is_the_same_for_the_same_seed_and_noise(page_visit: Visit) -> None:
    page = page_visit.open("#transform")
    field = page.get_by_label("Values", exact=True)
    first = field.input_value()
    page.get_by_label("Seed").fill("2")
    expect(field).not_to_have_value(first)
    page.get_by_label("Seed").fill("1")
    expect(field).to_have_value(first)
    page.get_by_label("Noise").fill("0")
    clean = [float(cell) for cell in field.input_value().split()]
    assert np.std(np.subtract([float(cell) for cell in first.split()], clean)) == pytest.approx(0.25, abs=0.05)


def test_what_is_no_number_is_told(page_visit: Visit) -> None:
    page = page_visit.open("#transform")
    page.get_by_label("Values", exact=True).fill("1 two 3")
    expect(page.get_by_role("alert")).to_contain_text("“two” is no number.")


def test_another_model_takes_the_values_that_were_typed(page_visit: Visit) -> None:
    page = page_visit.open("#transform")
    field = page.get_by_label("Values", exact=True)
    field.fill("1 2 3")
    page.get_by_role("tabpanel").get_by_role("combobox").select_option("cleaner-frames")
    expect(page.get_by_text("cleaner-frames: 3 values")).to_be_visible()
    expect(field).to_have_value("1 2 3")


def test_models_of_rows_are_not_offered(page_visit: Visit) -> None:
    """A model may make rows of numbers, and those are no series."""
    page = page_visit.open("#transform")
    names = page.get_by_role("tabpanel").get_by_role("combobox").locator("option")
    expect(names).to_have_text(["cleaner", "cleaner-frames"])


# -- Listen ----------------------------------------------------------------------------------------------------------


def scores_shown(page: Page) -> list[str]:
    page.locator(".bars li").first.wait_for()
    return page.locator(".bars .number").all_inner_texts()


def test_a_file_is_heard_as_the_service_hears_it(page_visit: Visit, sequences: Server, tmp_path: Path) -> None:
    page = page_visit.open("#listen")
    sound = 0.5 * np.sin(np.arange(2000) / 5)
    content = wav.write(sound, 4000)
    (tmp_path / "tone.wav").write_bytes(content)
    page.get_by_label("or a WAV file").set_input_files(tmp_path / "tone.wav")
    expect(page.get_by_text("tone.wav: 0.50 s.")).to_be_visible()
    body = {"model": "listener", "items": [{"audio": base64.b64encode(content).decode()}], "scores": "all"}
    result = answer(sequences, "/v1/classify", body)
    expect(page.locator(".bars .number")).to_have_text([f"{score:.3f}" for score in result["scores"].values()])
    expect(page.locator(".verdict")).to_have_text(result["label"])
    assert page_visit.sent("/v1/classify")[-1] == body


def test_the_example_is_a_wav_file_at_the_model_s_rate(page_visit: Visit) -> None:
    page = page_visit.open("#listen")
    scores_shown(page)
    (asked,) = page_visit.sent("/v1/classify")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(asked["items"][0]["audio"])))
    assert (rate, len(samples)) == (tiny_sequences.SAMPLE_RATE, round(0.8 * tiny_sequences.SAMPLE_RATE))
    assert np.abs(samples).max() > 0.3


def test_a_file_without_sound_is_told(page_visit: Visit, tmp_path: Path) -> None:
    page = page_visit.open("#listen")
    scores_shown(page)
    (tmp_path / "no.wav").write_text("no sound")
    page.get_by_label("or a WAV file").set_input_files(tmp_path / "no.wav")
    expect(page.get_by_role("alert")).to_contain_text("no.wav holds no sound that this browser reads")


def test_a_browser_without_a_microphone_says_so(page_visit: Visit) -> None:
    page = page_visit.open("#listen")
    scores_shown(page)
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_role("alert")).to_contain_text("The browser gives no microphone")


def test_a_recording_is_one_and_is_heard(visits: VisitFactory, start_server: ServerFactory, tmp_path: Path) -> None:
    """While the browser asks for the microphone nothing else can be recorded; what came is told in seconds."""
    tiny_sequences.listener(tmp_path / "models", samples=400, rate=8000)
    visit = visits(start_server(tmp_path / "models", tmp_path / "state").url, permissions=["microphone"])
    page = visit.open("#listen")
    scores_shown(page)
    record = page.get_by_role("button", name="Record")
    assert record.evaluate("(button) => (button.click(), button.ariaDisabled)") == "true"
    with page.expect_response("**/v1/classify") as heard:
        page.get_by_role("button", name=re.compile(r"End the recording \(\d+ s\)")).click()
    expect(page.get_by_text("A recording: ")).to_be_visible()
    (result,) = heard.value.json()["results"]
    expect(page.get_by_text(f"Heard in {result['steps']} steps.")).to_be_visible()


def test_a_recording_without_sound_is_told(visits: VisitFactory, sequences: Server) -> None:
    """As of a recording that ends as it begins."""
    page = visits(sequences.url, permissions=["microphone"]).open("#listen")
    scores_shown(page)
    record = page.get_by_role("button", name="Record")
    record.evaluate(
        """(button) => {
          const end = () => button.textContent.startsWith("End") && button.click();
          new MutationObserver(end).observe(button, { childList: true });
          button.click();
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text("The recording holds no sound")
