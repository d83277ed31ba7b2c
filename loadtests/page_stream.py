"""The page's live chart under load: the longest frame and the memory while a stream plays for two minutes.

It measures in a browser that it is given. Frames are those of the browser's own clock; memory is what the page's
JavaScript holds after a collection.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from playwright.sync_api import Browser, CDPSession, Page

RATE = 20  # observations a second
LENGTH_S = 120.0
LOOKS = 8  # at memory, evenly: one or two would show where the collector stood, and no trend
KEPT_UP = 0.95  # of the observations that are due
WATCH = """() => {
  window.frames_ms = [];
  let before = performance.now();
  const next = (now) => { window.frames_ms.push(now - before); before = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


@dataclass(frozen=True)
class LiveChart:
    """What was measured while `observations` were drawn in `lasted_s` seconds; `heaps_bytes` one look after another."""

    observations: int
    lasted_s: float
    longest_frame_ms: float
    frames_over_100_ms: int
    heaps_bytes: tuple[int, ...]

    @property
    def kept_up(self) -> bool:
        """Whether nearly all observations came that were due: else the chart was not under the load that is told."""
        return self.observations >= KEPT_UP * RATE * self.lasted_s


def play_stream(browser: Browser, url: str) -> LiveChart:
    """Play the page's panel Stream for two minutes and return its figures."""
    page = browser.new_page()
    page.goto(f"{url}/#stream")
    page.get_by_text("Main: open").wait_for()
    page.locator(".chart .main-svg").first.wait_for()
    page.get_by_label("Speed").fill(str(RATE))
    session = page.context.new_cdp_session(page)
    page.get_by_role("button", name="Start", exact=True).click()
    began_s = time.monotonic()
    frames: list[float] = []
    heaps: list[int] = []
    page.evaluate(WATCH)
    for _ in range(LOOKS):
        page.evaluate("window.frames_ms = []")  # a collection stops the page: the frame behind it does not count
        page.wait_for_timeout(1000 * LENGTH_S / LOOKS)
        frames += frames_so_far(page)
        heaps.append(heap_bytes(session))
    lasted_s = time.monotonic() - began_s
    observations = page.evaluate("document.querySelector('#panel-stream .chart').data[5].x.at(-1)")
    page.close()
    return LiveChart(observations, lasted_s, max(frames), sum(frame > 100 for frame in frames), tuple(heaps))


def frames_so_far(page: Page) -> list[float]:
    frames: list[float] = page.evaluate("window.frames_ms.slice(1)")
    return frames


def heap_bytes(session: CDPSession) -> int:
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return int(next(metric["value"] for metric in metrics if metric["name"] == "JSHeapUsedSize"))
