"""The page in a headless Chromium, watched: what it must never do makes the test fail that made it do so.

No other host can be reached: requests to one are cut off, as they would be without internet, and count as faults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
import tiny_conditions
import tiny_plain
from conftest import ANSWER_LIMIT_S, ROOT, Server, ServerFactory
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, Route, expect, sync_playwright
from programs import find_program

OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--use-fake-device-for-media-stream",  # for those windows that are given the permission
)
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SEVERE = {"serious", "critical"}
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
# What a page may look like: its colours do not depend on its size, so each of both is seen once.
LOOKS = [pytest.param("light", PHONE, id="light-phone"), pytest.param("dark", DESK, id="dark-desk")]
STRANGE = "classifier"  # a model of a task that no part of the page runs, in whose directory foreign things lie
STRANGE_CARD = """# A foreign card

<img src=x onerror="document.title = 'taken'"> [a link](javascript:document.title='taken') and `code`

![curves](report/curves.svg)
"""
STRANGE_PICTURE = """<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30">
<script>document.documentElement.setAttribute("taken", "yes")</script>
<rect width="40" height="30" fill="#888" onload="document.documentElement.setAttribute('taken', 'yes')"/></svg>
"""


class Visit:
    """A browser's window on the page of `server`; `expected` are patterns of console messages that a test calls for."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.faults: list[str] = []
        self.expected: list[str] = []
        self.calls: list[Request] = []
        context.set_default_timeout(1000 * ANSWER_LIMIT_S)
        context.route(lambda address: not self._is_own(address), self._cut_off)
        context.on("console", lambda message: self._note(message.type, message.text))
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))
        context.on("request", self._keep)
        self.page: Page = context.new_page()
        self.page.on("websocket", lambda socket: self._see_socket(socket.url))

    def open(self, place: str = "") -> Page:
        """Go to the page, or to the panel that `place` (#read...) names, and wait until it is there."""
        self.page.goto(f"{self.url}/{place}")
        self.page.get_by_role("tab").first.wait_for()
        return self.page

    def sent(self, path: str) -> list[Any]:
        """Return the bodies of the requests to `path` so far."""
        return [request.post_data_json for request in self.calls if request.url == self.url + path]

    def hold(self, path: str) -> Callable[[], None]:
        """Keep requests to `path` on their way until what is returned is called."""
        held: list[Route] = []

        def keep(route: Route) -> None:
            held.append(route)

        def let_go() -> None:
            self.context.unroute(self.url + path, keep)
            for route in held:
                route.continue_()

        self.context.route(self.url + path, keep)
        return let_go

    def violations(self) -> list[str]:
        """Return what axe-core finds that is serious or worse in what is shown."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("() => axe.run(document)")["violations"]
        return [
            f"{each['id']}: {node['html']} {node['failureSummary']}"
            for each in found
            if each["impact"] in SEVERE
            for node in each["nodes"]
        ]

    def _is_own(self, address: str) -> bool:
        return address.startswith((self.url + "/", "blob:", "data:"))

    def _cut_off(self, route: Route) -> None:
        self.faults.append(f"a request to another host: {route.request.url}")
        route.abort()

    def _see_socket(self, address: str) -> None:
        if not address.startswith(self.url.replace("http", "ws", 1) + "/"):
            self.faults.append(f"a WebSocket to another host: {address}")

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not any(re.search(pattern, text) for pattern in self.expected):
            self.faults.append(f"console {kind}: {text}")

    def _keep(self, request: Request) -> None:
        self.calls.append(request)


def scored_words(page: Page) -> Locator:
    return page.locator(".words li:not(.waiting)")


def write(page: Page, text: str) -> None:
    """Give the panel Read another text, and wait until its words are scored, and no others."""
    page.get_by_label("Text", exact=True).fill(text)
    score = "[+\N{MINUS SIGN}]"
    expect(scored_words(page)).to_have_text([re.compile(f"^{re.escape(word)}{score}") for word in text.split()])


VisitFactory = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a module."""
    expect.set_options(timeout=1000 * ANSWER_LIMIT_S)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=find_program("chromium"), args=OPTIONS)
        yield running
        running.close()


@pytest.fixture
def visits(browser: Browser, start_server: ServerFactory) -> Iterator[VisitFactory]:
    """Open windows that share nothing; each may have options of Playwright's contexts. None may have done wrong.

    They are closed before the test's own servers end.
    """
    opened: list[Visit] = []

    def visit(url: str, **options: Any) -> Visit:
        opened.append(Visit(browser.new_context(**options), url))
        return opened[-1]

    yield visit
    for each in opened:
        each.context.close()
        assert each.faults == []


@pytest.fixture
def visit(visits: VisitFactory, page_server: Server) -> Visit:
    """A window on the page over the committed models."""
    return visits(page_server.url)


@pytest.fixture(scope="session")
def page_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed models, a tiny translator, and one from elsewhere whose card and picture hold scripts."""
    models = tmp_path_factory.mktemp("page-models")
    for model in (ROOT / "models").iterdir():
        (models / model.name).symlink_to(model)
    tiny_conditions.translator(models, name="translator", seed=37)
    version = tiny_plain.classifier(models)
    (version / "card.md").write_text(STRANGE_CARD)
    (version / "report").mkdir()
    (version / "report" / "curves.svg").write_text(STRANGE_PICTURE)
    return models


@pytest.fixture(scope="session")
def page_server(page_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service over them, shared by tests that leave nothing behind."""
    running = Server(page_models, tmp_path_factory.mktemp("page-state"))
    yield running
    running.stop()
