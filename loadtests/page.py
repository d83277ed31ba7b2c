"""How fast the page is to its reader: `python -m loadtests.page`, which needs Chromium.

It writes a table between its marks in docs/page.md, and what was measured beside the other benchmarks. Service and
browser run on this machine, with the committed models. What is timed is what a reader sees: the page's own clock, from
the event of a key to the frame in which the words stand coloured.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, expect, sync_playwright

from loadtests import requirements
from loadtests.page_stream import LiveChart, play_stream
from loadtests.requirements import BenchError
from loadtests.serving import baton

ROOT = Path(__file__).parent.parent
PAGE, RAW = ROOT / "docs" / "page.md", ROOT / "loadtests" / "results" / "page.json"
BEGIN, END = "<!-- page:begin -->", "<!-- page:end -->"
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
LOADS = 20
KEYS = 100
WORDS = ("it", "starts", "slow", "and", "clumsy", "but", "grows", "into", "something", "wonderful")
# Resolves with the milliseconds from the next key to the frame after which so many words stand scored.
TIME_A_KEY = """(count) => { window.timed = new Promise((resolve) => {
  let began;
  document.addEventListener("keydown", (event) => { began = event.timeStamp; }, { capture: true, once: true });
  const watch = new MutationObserver(() => {
    if (document.querySelectorAll(".words li:not(.waiting)").length < count) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  });
  watch.observe(document.querySelector(".words"), { childList: true });
}); }"""
FIRST_PAINT = """() => new Promise((resolve) => {
  new PerformanceObserver((seen) => {
    const [paint] = seen.getEntriesByName("first-contentful-paint");
    if (paint) resolve(paint.startTime);
  }).observe({ type: "paint", buffered: true });
})"""
PAINT_MS, COLOUR_MS, FRAME_MS = 1000, 60, 100  # wanted: the slowest load, the 95th percentile, every frame


def first_paints(browser: Browser, url: str) -> list[float]:
    """Load the page anew, without a cache, and return when its first contents were painted, in milliseconds."""
    paints = []
    for _ in range(LOADS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_role("tab").first.wait_for()
        paints.append(page.evaluate(FIRST_PAINT))
        context.close()
    return paints


def keys_to_colours(browser: Browser, url: str) -> list[float]:
    """Type words one after another; return the milliseconds from the key that completes each to its colour."""
    page = browser.new_page()
    page.goto(f"{url}/#read")
    field = page.get_by_label("Text", exact=True)
    field.fill("")
    expect(page.locator(".words li")).to_have_count(0)
    times = []
    for count, word in enumerate(islice(cycle(WORDS), KEYS), start=1):
        field.press_sequentially(word)
        page.evaluate(TIME_A_KEY, count)
        field.press("Space")
        times.append(page.evaluate("window.timed"))
    page.close()
    return times


def table(paints: list[float], colours: list[float], chart: LiveChart) -> str:
    """Return what was measured beside what is wanted."""
    painted, coloured = max(paints) <= PAINT_MS, bool(np.percentile(colours, 95) <= COLOUR_MS)
    smooth = chart.kept_up and not chart.frames_over_100_ms
    heaps = ", ".join(f"{heap / 1e6:.1f}" for heap in chart.heaps_bytes)
    played = f"{chart.observations} observations in {chart.lasted_s:.0f} s"
    lines = [
        "| what | measured | wanted |",
        "|---|---|---|",
        f"| first contentful paint, {LOADS} loads | {_spread(paints)} | {PAINT_MS} ms, {_met(painted)} |",
        f"| key pressed to words coloured, {KEYS} keys | {_spread(colours)} | p95 {COLOUR_MS} ms, {_met(coloured)} |",
        f"| live chart, {played} | longest frame {chart.longest_frame_ms:.0f} ms, {chart.frames_over_100_ms} over "
        f"{FRAME_MS} ms | none over {FRAME_MS} ms, {_met(smooth)} |",
        f"| its memory, evenly over that time | {heaps} MB | flat |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table into the page of the documents."""
    with (
        tempfile.TemporaryDirectory() as folder,
        baton(ROOT / "models", Path(folder)) as running,
        _browser() as browser,
    ):
        paints, colours = first_paints(browser, running.url), keys_to_colours(browser, running.url)
        chart = play_stream(browser, running.url)
    found = table(paints, colours, chart)
    cores = f"{requirements.cores()} cores for the service and a browser that draws on them as well"
    about = f"Measured on {time.strftime('%Y-%m-%d')}: {cores}."
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{about}\n\n{found}\n\n{END}{rest.split(END)[1]}")
    RAW.write_text(json.dumps({"paints_ms": paints, "colours_ms": colours, "chart": asdict(chart)}, indent=1) + "\n")
    print(found)


@contextmanager
def _browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        raise BenchError("no chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield browser
        browser.close()


def _spread(times_ms: list[float]) -> str:
    p50, p95, most = np.percentile(times_ms, (50, 95, 100))
    return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms, longest {most:.0f} ms"


def _met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


if __name__ == "__main__":
    main()
