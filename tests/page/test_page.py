"""The page around its panels: tabs, keys, errors, themes and widths, and what a page must never do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import LOOKS, Visit, VisitFactory, scored_words, write
from conftest import Server, ServerFactory, free_port
from keyring import Keyring
from playwright.sync_api import Page, expect

KEYS = Keyring("acme")
KEY = KEYS["acme"]
# What is unfolded of a panel, one after another, the second of each; and what comes last.
FOLDS = {"Models": ("details.box > summary", "details.box[open] summary"), "Requests": ("details.box > summary",)}
LAST = {"Read": ".verdict", "Translate": ".translation", "Models": ".card h4", "Requests": ".records pre"}


def panels(page: Page) -> Iterator[str]:
    """Show one panel after the other, with what can be unfolded in it, once it is at rest; yield their titles."""
    for tab in page.get_by_role("tab").all():
        tab.click()
        panel = page.get_by_role("tabpanel")
        expect(panel).to_have_count(1)
        title = tab.inner_text()
        for fold in FOLDS.get(title, ()):
            panel.locator(fold).nth(1).click()
        if title in LAST:
            panel.locator(LAST[title]).first.wait_for()
        yield title


def luminance(page: Page, what: str) -> float:
    """Return how light the colour `what` of the page's body is, 0 to 1."""
    colour = page.evaluate(f"getComputedStyle(document.body).{what}")
    return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")) / (3 * 255)


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_every_panel_suits_every_reader(
    visits: VisitFactory, page_server: Server, scheme: str, size: dict[str, int]
) -> None:
    """No serious fault that axe-core finds, nothing to scroll sideways, and the colours that the reader wants."""
    visit = visits(page_server.url, color_scheme=scheme, viewport=size)
    page = visit.open()
    assert (luminance(page, "backgroundColor") > luminance(page, "color")) == (scheme == "light")
    seen = []
    for title in panels(page):
        assert (title, visit.violations()) == (title, [])
        assert (title, page.evaluate("document.documentElement.scrollWidth")) == (title, size["width"])
        seen.append(title)
    assert {"Read", "Models", "Requests"} <= {*seen}


def test_tabs_are_moved_among_by_arrows_and_named_in_the_address(visit: Visit) -> None:
    page = visit.open()
    tabs = page.get_by_role("tab").all_inner_texts()
    page.keyboard.press("Tab")
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", -1),
        ("ArrowRight", 0),
        ("End", -1),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        chosen = page.get_by_role("tab", selected=True)
        expect(chosen).to_have_text(tabs[place])
        expect(chosen).to_be_focused()
        expect(page).to_have_url(f"{visit.url}/#{tabs[place].lower()}")
        expect(page.get_by_role("tabpanel", name=tabs[place])).to_be_visible()
    page.go_back()
    expect(page.get_by_role("tab", selected=True)).to_have_text(tabs[-1])
    expect(visit.open("#models").get_by_role("tab", selected=True)).to_have_text("Models")
    expect(visit.open("#nothing").get_by_role("tab", selected=True)).to_have_text(tabs[0])


def test_the_page_runs_nothing_but_its_own_files(visit: Visit) -> None:
    """The policy stops a script that comes in with a text, and what would send something elsewhere."""
    visit.expected += ["Content Security Policy", "status of 404"]
    page = visit.open()
    answer = page.request.get(visit.url)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    page.evaluate(
        """() => new Promise((done) => {
          document.body.insertAdjacentHTML("beforeend", '<img src="/none" onerror="document.title = 1">');
          document.body.lastChild.addEventListener("error", done);
        })"""
    )
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))")
    assert page.title() == "Baton"
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate("fetch('https://example.org/')")


def test_a_service_with_keys_asks_for_one(
    visits: VisitFactory, start_server: ServerFactory, tiny_models: Path, tmp_path: Path
) -> None:
    """A wrong key is told; the right one is kept for this tab alone, and goes with every call."""
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=KEYS.setting)
    visit = visits(server.url)
    visit.expected.append("status of 401")
    page = visit.page
    page.goto(server.url)
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert visit.violations() == []
    alert = page.get_by_role("alert")
    for unsendable in ("schlüssel", "ключ", "two words"):
        field.fill(unsendable)
        page.keyboard.press("Enter")
        expect(alert).to_contain_text("keys are ASCII letters, digits and signs")
    field.fill("a-wrong-key")
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("with a known key")
    field.fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Read")).to_be_visible()
    expect(field).to_be_hidden()
    expect(page.get_by_role("alert")).to_have_count(0)
    write(page, "a good film ")
    page.get_by_role("button", name="Another key").click()
    expect(field).to_be_focused()
    field.fill("a-wrong-key")
    page.keyboard.press("Enter")
    expect(alert).to_contain_text("with a known key")
    visit.expected.clear()
    page.reload()
    expect(page.get_by_role("tab", name="Read")).to_be_visible()
    other = visit.context.new_page()
    visit.expected.append("status of 401")
    other.goto(server.url)
    expect(other.get_by_label("API key")).to_be_visible()


def test_a_part_that_cannot_be_built_says_so_in_its_place(visit: Visit) -> None:
    """As a fault of the page, which the console has too; the other parts are there."""
    visit.page.route("**/v1/info", lambda route: route.fulfill(json={}))
    page = visit.open("#models")
    expect(page.locator("#panel-models").get_by_role("alert")).to_contain_text("undefined")
    assert [fault.split(":")[0] for fault in visit.faults] == ["error"]
    visit.faults.clear()
    page.get_by_role("tab", name="Read").click()
    expect(page.get_by_label("Text", exact=True)).to_be_visible()


def test_a_service_that_is_gone_is_told_and_found_again(
    visits: VisitFactory, start_server: ServerFactory, tiny_models: Path, tmp_path: Path
) -> None:
    """The text goes on where it stood: its tokens are good on the service that came back."""
    server = start_server(tiny_models, tmp_path, BATON_PORT=str(free_port()))
    visit = visits(server.url)
    visit.expected.append("ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE")
    page = visit.open("#read")
    write(page, "a good ")
    server.stop()
    page.get_by_label("Text", exact=True).fill("a good film ")
    alerts = page.get_by_role("alert")
    expect(alerts).to_have_count(2)
    address = server.url.removeprefix("http://")
    expect(alerts.first).to_contain_text(f"The service at {address} does not answer. Is it running?")
    expect(scored_words(page)).to_have_count(2)
    before = len(visit.sent("/v1/step"))
    server.start()
    write(page, "a good film ! ")
    expect(alerts).to_have_count(0)
    assert [body["items"][0]["text"] for body in visit.sent("/v1/step")[before:]] == ["film", "!"]


def test_a_page_whose_service_is_not_ready_asks_again_when_told_to(visits: VisitFactory, page_server: Server) -> None:
    visit = visits(page_server.url)
    visit.expected.append("ERR_CONNECTION_REFUSED")
    visit.context.route("**/v1/info", lambda route: route.abort("connectionrefused"))
    page = visit.page
    page.goto(page_server.url)
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.get_by_role("tab")).to_have_count(0)
    visit.context.unroute("**/v1/info")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("tab", name="Models")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_an_answer_of_something_before_the_service_is_told_as_such(visits: VisitFactory, page_server: Server) -> None:
    """A proxy's page in HTML is no answer of the service."""
    visit = visits(page_server.url)
    visit.expected.append("status of 502")
    visit.context.route("**/v1/models", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    visit.page.goto(page_server.url)
    expect(visit.page.get_by_role("alert")).to_contain_text("something before it answered 502: <h1>Bad gateway</h1>")
    visit.context.unroute("**/v1/models")
