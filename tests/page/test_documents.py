"""`/docs` in a browser: an example is one click from its answer, and nothing comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import examples
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import VisitFactory
from conftest import Server
from keyring import Keyring
from playwright.sync_api import Locator, Page, expect

KEYS = Keyring("acme", admin=True)
SWAGGERS_OWN = {"color-contrast", "heading-order", "nested-interactive"}  # what axe has against its markup and colours
UNLOAD = "Unload a model"
WANTING = (("/v1/step", "go_on"), ("/v1/state", "carry"), ("/v1/generate", "go_on"), ("/v1/completions", "go_on"))
OF_EACH_KIND = ".opblock-post, [id^=operations-models-]"  # with a body, with parameters, with both, with neither


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = examples.serve(tmp_path_factory.mktemp("state"), keys=KEYS)
    yield server
    server.stop()


def show(visits: VisitFactory, served: Server, **options: Any) -> Page:
    """Return the page once it shows every operation."""
    page: Page = visits(served.url, **options).page
    page.goto(f"{served.url}/docs")
    page.locator(".opblock").first.wait_for()
    return page


def authorize(page: Page) -> None:
    page.get_by_role("button", name="Authorize").click()
    for scheme, key in (("HTTPBearer", KEYS["acme"]), ("Admin", KEYS.admin)):
        form = page.locator(".auth-container form").filter(has_text=scheme)
        form.locator("input").fill(key)
        form.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="Close").last.click()


def execute(operation: Locator) -> str:
    """Open an operation, send the example that is filled in, and return the status of the answer."""
    summary = operation.locator(".opblock-summary-control")
    summary.click()
    operation.locator(".execute").wait_for()
    operation.locator(".execute").click()
    status = operation.locator(".live-responses-table tbody .response-col_status").first
    shown = status.inner_text().split()[0]
    summary.click()  # Swagger UI renders what is open again for each answer
    return shown


def test_a_call_is_one_click_away(visits: VisitFactory, served: Server) -> None:
    """With keys too, once they are given, and where an example wants a state; but none that takes a model away."""
    page = show(visits, served)
    authorize(page)
    filled_in = page.locator(OF_EACH_KIND).filter(has_not_text=UNLOAD).all()
    statuses = {operation.get_attribute("id"): execute(operation) for operation in filled_in}
    assert len(statuses) > 10
    assert statuses == dict.fromkeys(statuses, "200")
    unload = page.locator(".opblock-post").filter(has_text=UNLOAD)
    unload.locator(".opblock-summary-control").click()
    unload.locator(".execute").click()
    expect(unload.locator(".parameters input.invalid")).to_have_value("")


def test_every_state_that_an_example_wants_is_put_in(visits: VisitFactory, served: Server) -> None:
    page = show(visits, served)
    authorize(page)
    for path, name in WANTING:
        operation = page.locator(".opblock-post").filter(has=page.locator(f"[data-path='{path}']"))
        operation.locator(".opblock-summary-control").click()
        operation.locator(".opblock-section-request-body select.examples-select-element").select_option(name)
        operation.locator(".execute").click()
        expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")


def test_the_page_is_dark_where_the_reader_wants_it(visits: VisitFactory, served: Server) -> None:
    page = show(visits, served, color_scheme="light")
    light = page.locator("html").evaluate("html => getComputedStyle(html).backgroundColor")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).not_to_have_css("background-color", light)


def test_axe_has_nothing_against_the_page_but_what_is_swagger_s(visits: VisitFactory, served: Server) -> None:
    found = Axe().run(show(visits, served)).response
    assert {violation["id"] for violation in found["violations"]} <= SWAGGERS_OWN
    assert len(found["passes"]) > 10
