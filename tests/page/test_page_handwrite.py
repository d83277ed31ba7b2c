"""Handwrite: a text in strokes of a pen, drawn as the service answers their points."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import LOOKS, Visit, VisitFactory
from conftest import Server
from in_process import Array
from playwright.sync_api import Locator, Page, expect
from test_page_requests import newest, run_in_node, run_in_python, run_in_shell

TEXT = "abc de"
ASKED: dict[str, Any] = {"model": "penman", "seed": 1, "bias": 0.5, "max_steps": 2000, "svg": True}
ENDED = re.compile("points in .* ended by")
# What a page is told of a text, a piece whenever the test says so.
TOLD_BY_HAND = """
const fetched = window.fetch;
window.fetch = (path, options) => {
  if (path !== "/v1/generate") return fetched(path, options);
  const start = (controller) => { window.tell = (piece) => controller.enqueue(new TextEncoder().encode(piece)); };
  return Promise.resolve(new Response(new ReadableStream({ start })));
};
"""
# Whether the last point that is drawn is at a height.
DRAWN = """
(y) => {
  const last = document.querySelector(".handwriting path:last-child")?.getAttribute("d").split(" ").at(-1);
  return Math.abs(Number(last) - y) < 1e-6;
}
"""


@pytest.fixture
def page_visit(visits: VisitFactory, pens: Server) -> Visit:
    return visits(pens.url)


def ask(server: Server, text: str = TEXT, **changes: Any) -> dict[str, Any]:
    """Return what the service answers to what the page asks for, as a whole."""
    body = {**ASKED, "items": [{"condition": {"text": text}}], **changes}
    choice: dict[str, Any] = server.post("/v1/generate", body).json()["results"][0]["choices"][0]
    return choice


def events(server: Server) -> list[str]:
    """Return the events of the same as they are written."""
    body = {**ASKED, "items": [{"condition": {"text": TEXT}}], "stream": True}
    return [f"{event}\n\n" for event in server.post("/v1/generate", body).text.split("\n\n") if event]


def told_in(written: list[str]) -> list[list[list[float]]]:
    """Return the points of each event."""
    return [json.loads(event.removeprefix("data: "))["points"] for event in written]


def picture(page: Page) -> Locator:
    return page.get_by_role("img", name=f"“{TEXT}”, written by hand")


def write(page: Page, text: str = TEXT) -> None:
    page.get_by_label("Text to write by hand").fill(text)
    page.get_by_role("button", name="Write", exact=True).click()


def strokes(picture: Locator) -> list[Array]:
    """Return the places [points, 2] of each stroke; a path begins with its first place twice."""
    lines = picture.locator("path").evaluate_all("all => all.map((path) => path.getAttribute('d'))")
    return [np.array(re.findall(r"[^ML ]+", line), np.float64).reshape(-1, 2)[1:] for line in lines]


def check_strokes(drawn: list[Array], points: list[list[float]]) -> None:
    """Check that strokes are the sums of the offsets of points, and end where they say so."""
    due = np.array(points)
    np.testing.assert_allclose(np.concatenate(drawn), due[:, :2].cumsum(axis=0) * (1, -1), atol=1e-3)
    assert [len(stroke) for stroke in drawn[:-1]] == np.diff(due[:-1, 2].nonzero()[0] + 1, prepend=0).tolist()


def frame(picture: Locator) -> list[float]:
    """Return where the strokes begin and end in a picture: left, right, top and bottom, as shares of its size."""
    found: list[float] = picture.evaluate(
        """(picture) => {
          const boxes = [...picture.children].map((path) => path.getBoundingClientRect());
          const { left, top, width, height } = picture.getBoundingClientRect();
          const xs = boxes.flatMap((box) => [box.left, box.right]).map((x) => (x - left) / width);
          const ys = boxes.flatMap((box) => [box.top, box.bottom]).map((y) => (y - top) / height);
          return [xs, ys].flatMap((all) => [Math.min(...all), Math.max(...all)]);
        }"""
    )
    return found


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_handwriting_suits_every_reader(visits: VisitFactory, pens: Server, scheme: str, size: dict[str, int]) -> None:
    """No serious fault that axe-core finds, nothing to scroll sideways, and ink in the colour of the text."""
    visit = visits(pens.url, color_scheme=scheme, viewport=size)
    page = visit.open("#handwrite")
    write(page)
    expect(page.get_by_text(ENDED)).to_be_visible()
    assert visit.violations() == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert picture(page).evaluate("it => getComputedStyle(it).stroke === getComputedStyle(document.body).color")


def test_strokes_are_drawn_as_their_events_come(page_visit: Visit, pens: Server) -> None:
    """Each time all of them, at the scale of all that is there."""
    *written, summary = events(pens)
    assert len(written) > 3
    page_visit.context.add_init_script(TOLD_BY_HAND)
    page = page_visit.open("#handwrite")
    write(page)
    expect(page.get_by_text("It writes.")).to_be_visible()
    expect(picture(page).locator("path")).to_have_count(0)
    points: list[list[float]] = []
    for piece, more in zip(written, told_in(written), strict=True):
        points += more
        page.evaluate("(piece) => window.tell(piece)", piece)
        page.wait_for_function(DRAWN, arg=float(-np.array(points)[:, 1].sum()))
        check_strokes(strokes(picture(page)), points)
        left, right, top, bottom = frame(picture(page))
        assert 0 <= left <= right <= 1
        assert 0 <= top <= bottom <= 1
    assert max(right - left, bottom - top) > 0.8
    expect(page.get_by_role("button", name="Download SVG")).to_be_disabled()
    page.evaluate("(piece) => window.tell(piece)", summary)
    drawn = len(strokes(picture(page)))
    expect(page.get_by_text(f"{len(points):,} points in {drawn} stroke{'s' * (drawn > 1)},")).to_be_visible()
    expect(page.get_by_role("button", name="Download SVG")).to_be_enabled()


def test_a_text_is_written_as_the_service_answers_it(page_visit: Visit, pens: Server, tmp_path: Path) -> None:
    """With the bias and the seed that were set; its picture is the service's too."""
    page = page_visit.open("#handwrite")
    page.get_by_label("Seed").fill("4")
    page.get_by_label("Bias").fill("5")
    write(page)
    choice = ask(pens, seed=4, bias=1.25)
    end = {"end": "the model", "length": "its length"}[choice["finish"]]
    expect(
        page.get_by_text(re.compile(rf"^{choice['steps']:,} points in .*, ended by {end}; seed 4\.$"))
    ).to_be_visible()
    check_strokes(strokes(picture(page)), choice["points"])
    items = [{"condition": {"text": TEXT}}]
    assert page_visit.sent("/v1/generate") == [{**ASKED, "items": items, "seed": 4, "bias": 1.25, "stream": True}]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download SVG").click()
    assert saved.value.suggested_filename == "handwriting.svg"
    saved.value.save_as(tmp_path / "handwriting.svg")
    numbers = [
        re.findall(r"-?\d+(?:\.\d+)?", svg) for svg in ((tmp_path / "handwriting.svg").read_text(), choice["svg"])
    ]
    np.testing.assert_allclose(*(np.array(each, np.float64) for each in numbers), atol=1e-3)


def test_writing_that_is_stopped_stands(page_visit: Visit, pens: Server) -> None:
    """The connection is left, nothing more is drawn, and there is no picture of it to download."""
    *written, _ = events(pens)
    page_visit.context.add_init_script(TOLD_BY_HAND)
    page = page_visit.open("#handwrite")
    write(page)
    page.evaluate("(piece) => window.tell(piece)", written[0])
    expect(picture(page).locator("path")).not_to_have_count(0)
    page.get_by_role("button", name="Stop").click()
    page.evaluate("(piece) => window.tell(piece)", written[1])
    expect(page.get_by_text(re.compile("stopped; seed 1"))).to_be_visible()
    check_strokes(strokes(picture(page)), told_in(written)[0])
    expect(page.get_by_role("button", name="Download SVG")).to_be_disabled()
    expect(page.get_by_role("button", name="Write", exact=True)).to_be_enabled()


def test_a_stop_leaves_the_service(page_visit: Visit) -> None:
    page = page_visit.open("#handwrite")
    page.evaluate(
        """() => new MutationObserver((_, watching) => {
          watching.disconnect();
          document.querySelector("#panel-handwrite .acts button:nth-child(2)").click();
        }).observe(document.querySelector(".handwriting"), { childList: true })"""
    )
    with page.expect_event("requestfailed") as left:
        write(page, "abcdefg" * 9)
    assert left.value.url.endswith("/v1/generate")
    expect(page.get_by_text(re.compile("stopped; seed 1"))).to_be_visible()


def test_a_refusal_is_told_and_the_next_text_is_written(page_visit: Visit, pens: Server) -> None:
    page = page_visit.open("#handwrite")
    write(page)
    expect(page.get_by_text(ENDED)).to_be_visible()
    page.get_by_label("Seed").fill("1.5")
    write(page)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Seed is a whole number from 0 on.")
    check_strokes(strokes(picture(page)), ask(pens)["points"])
    page.get_by_label("Seed").fill("1")
    page_visit.expected.append("status of 4")
    write(page, "")
    expect(alert).to_contain_text("code empty_input")
    expect(page.locator(".handwriting path")).to_have_count(0)
    expect(page.get_by_role("img", name="Nothing is written yet")).to_be_visible()
    expect(page.get_by_text(ENDED)).to_have_count(0)
    write(page, "ab!")
    told = page.get_by_text("unknown to the model: 1 of the text's 3 tokens")
    expect(told).to_be_visible()
    page.get_by_label("Text to write by hand").fill(TEXT)
    page.keyboard.press("Enter")
    expect(told).to_have_count(0)
    expect(page.get_by_text(ENDED)).to_be_visible()
    expect(alert).to_have_count(0)


def test_what_was_written_before_an_error_stands_beside_it(page_visit: Visit, pens: Server) -> None:
    *written, _ = events(pens)
    first, last = (json.loads(event.removeprefix("data: ")) for event in (written[0], written[-1]))
    end = {**last, "points": [], "finish": "error"}
    error = {"index": 0, "id": None, "error": {"code": "draining", "message": "the service is shutting down"}}
    told = "".join(f"data: {json.dumps(event)}\n\n" for event in (first, end, error))
    page_visit.context.route(
        f"{pens.url}/v1/generate", lambda route: route.fulfill(content_type="text/event-stream", body=told)
    )
    page = page_visit.open("#handwrite")
    write(page)
    expect(page.get_by_role("alert")).to_contain_text("the service is shutting down")
    expect(page.get_by_text(re.compile("ended by an error; seed 1"))).to_be_visible()
    check_strokes(strokes(picture(page)), first["points"])


def test_handwrite_is_there_for_models_that_write_a_text_by_hand(
    visits: VisitFactory, pens: Server, server: Server
) -> None:
    """Not for what scribbles from nothing, or writes letters."""
    page = visits(server.url).open()
    expect(page.get_by_role("tab", name="Handwrite")).to_have_count(0)
    page = visits(pens.url).open("#handwrite")
    expect(page.get_by_role("tabpanel").get_by_role("combobox")).to_have_count(0)  # there is one, the penman
    page.get_by_role("tab", name="Models").click()
    for model, place in (("penman", "Try it: Handwrite"), ("scribbler", "this page has no part for it")):
        heading = page.get_by_role("heading", name=model, exact=True)
        page.locator("details.box > summary").filter(has=heading).click()
        expect(page.locator("details.box").filter(has=heading)).to_contain_text(place)


def test_lines_write_the_same_text_again(page_visit: Visit) -> None:
    page = page_visit.open("#handwrite")
    write(page)
    expect(page.get_by_text(ENDED)).to_be_visible()
    drawn = strokes(picture(page))
    lines = newest(page, "/v1/generate")
    made = run_in_python(lines["Python"])["answer"]
    check_strokes(drawn, np.concatenate([event.points for event in made]).tolist())
    in_script = lines["JavaScript"].replace("(answer)", "(JSON.stringify(answer))")
    for told in (run_in_shell(lines["curl"]), json.loads(run_in_node(in_script))):
        *written, _ = [line for line in told.splitlines() if line]
        check_strokes(drawn, [point for points in told_in(written) for point in points])
