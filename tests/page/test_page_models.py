"""Models: every model that is served, with its figures, tensors, pictures and card, from the API alone."""

from __future__ import annotations

import pytest
from browsing import STRANGE, Visit
from conftest import Server
from playwright.sync_api import Locator, expect


def opened(visit: Visit, model: str) -> Locator:
    """Open a model's box, and return it."""
    page = visit.open("#models")
    box = page.locator("details.box").filter(has=page.get_by_role("heading", name=model, exact=True))
    box.locator("summary").first.click()
    return box


def rows(box: Locator, table: str) -> list[list[str]]:
    group = box.get_by_role("group", name=table, exact=True).first
    group.wait_for()
    return [row.get_by_role("cell").all_inner_texts() for row in group.get_by_role("row").all()[1:]]


def test_every_model_has_its_place(visit: Visit, page_server: Server) -> None:
    page = visit.open("#models")
    served = page_server.client.get("/v1/models").json()["models"]
    boxes = page.locator("details.box")
    expect(boxes).to_have_count(len(served))
    for box, model in zip(boxes.all(), served, strict=True):
        expect(box.locator("h2")).to_have_text(model["name"])
        assert box.locator(".tag").all_inner_texts()[:2] == [f"version {model['version']}", model["task"]]


@pytest.mark.parametrize("model", ["sentiment-live", "forecast", "spam"])
def test_figures_stand_beside_their_floors_and_states_with_their_bytes(
    visit: Visit, page_server: Server, model: str
) -> None:
    facts = page_server.client.get(f"/v1/models/{model}").json()
    box = opened(visit, model)
    figures = rows(box, "Figures")
    assert [row[0] for row in figures] == [metric["name"] for metric in facts["metrics"]]
    for row, metric in zip(figures, facts["metrics"], strict=True):
        assert float(row[1]) == pytest.approx(metric["value"], rel=1e-3)
        assert (row[3] == "") == (metric["floor"] is None)
        assert metric["floor"] is None or float(row[3]) == pytest.approx(metric["floor"], rel=1e-3)
    tensors = rows(box, "Tensors")
    assert [row[1] for row in tensors if row[0] == "state"] == [state["input"] for state in facts["states"]]
    told = "It reads whole sequences: there is no state to carry."
    if facts["streamable"]:
        told = f"{facts['state_bytes']:,} bytes, in a token of {facts['token_chars']:,} characters"
    expect(box.get_by_text(told)).to_be_visible()


def test_pictures_are_those_of_the_report(visit: Visit, page_server: Server) -> None:
    facts = page_server.client.get("/v1/models/sentiment").json()
    box = opened(visit, "sentiment")
    expect(box.locator("figure img")).to_have_count(len(facts["pictures"]))
    assert box.locator("figcaption").all_inner_texts() == facts["pictures"]
    for picture in box.locator("figure img").all():
        picture.evaluate("image => image.decode()")  # which fails for what is no picture
        assert picture.evaluate("image => image.naturalWidth") > 0


def test_the_card_is_shown_as_it_is_written(visit: Visit, page_server: Server) -> None:
    written = page_server.client.get("/v1/models/sentiment/card").text
    box = opened(visit, "sentiment")
    box.get_by_text("Card", exact=True).click()
    card = box.locator(".card")
    headings = [line.lstrip("# ") for line in written.splitlines() if line.startswith("#")]
    expect(card.get_by_role("heading")).to_have_text(headings)
    assert card.locator("tr").count() == sum(
        line.startswith("| ") and "---" not in line for line in written.splitlines()
    )
    assert card.locator("li").count() == sum(line.startswith("- ") for line in written.splitlines())
    expect(card.locator("pre")).to_have_text(["python -m training train sentiment --seeds 0,1,2 --epochs 2"])


def test_a_card_of_any_form_is_shown(visit: Visit) -> None:
    """Line ends of any kind, a table without rows, signs that are never closed: text, and at once."""
    page = visit.open("#models")
    shown = page.evaluate(
        """async () => {
          const { render } = await import("/page/markdown.js");
          const texts = (markdown) => render(markdown).map((node) => `${node.tagName} ${node.textContent}`);
          const parts = ["[", "[a](b", "\\n", "#\\n", "|a\\n", "- a\\n", "`a`"];
          const many = parts.map((part) => texts(part.repeat(250000 / part.length)));
          return [texts("# A\\u2028B"), texts("# A\\rtext\\r\\r- item"), texts("|---|---|"), many.length];
        }"""
    )
    assert shown == [["H4 A\u2028B"], ["H4 A", "P text", "UL item"], ["P |---|---|"], 7]


def test_what_lies_in_a_foreign_directory_is_shown_and_never_run(visit: Visit, page_server: Server) -> None:
    """A card's HTML and links are text, and no script of a picture runs, in the page or opened by itself."""
    box = opened(visit, STRANGE)
    box.locator("figure img").evaluate("image => image.decode()")
    box.get_by_text("Card", exact=True).click()
    card = box.locator(".card")
    expect(card).to_contain_text("<img src=x onerror=\"document.title = 'taken'\">")
    expect(card).to_contain_text("a link (javascript:document.title='taken') and code")
    assert card.locator("img, a, script").count() == 0
    assert visit.page.title() == "Baton"
    visit.expected.append("script")  # which Chromium says it has blocked
    visit.page.goto(f"{page_server.url}/v1/models/{STRANGE}/pictures/curves.svg")
    assert visit.page.locator("rect").count() == 1
    assert visit.page.locator("[taken]").count() == 0


def test_a_model_that_no_part_of_the_page_runs_names_the_call_that_does(visit: Visit) -> None:
    expect(opened(visit, STRANGE)).to_contain_text(
        f"Runs by POST /v2/models/{STRANGE}/infer; this page has no part for it."
    )
    box = opened(visit, "spam")
    expect(box).to_contain_text("Try it: Read · runs by POST /v1/sentiment.")
    box.get_by_role("link", name="Read").click()
    expect(visit.page.get_by_role("tab", name="Read")).to_have_attribute("aria-selected", "true")


def test_a_picture_that_is_gone_says_so(visit: Visit) -> None:
    visit.expected.append("status of 404")
    visit.context.route(
        "**/pictures/confusion.svg", lambda route: route.continue_(url=route.request.url.replace("confusion", "gone"))
    )
    box = opened(visit, "spam")
    expect(box.get_by_role("alert")).to_contain_text("has no picture 'gone.svg'; there are confusion.svg")
    visit.context.unroute("**/pictures/confusion.svg")
    box.get_by_role("button", name="Try again").click()
    expect(box.get_by_role("alert")).to_have_count(0)
