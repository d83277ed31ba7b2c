"""Stream: what is drawn is the session that /v1/step would take, of the observations that were chosen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from browsing import Visit, VisitFactory
from conftest import ROOT, Server, ServerFactory
from keyring import Keyring
from playwright.sync_api import expect
from streaming import TOLERANCE, assert_same_session, drawn, observe, opened, press, wait_for_step

WINDOW = 300


def test_a_stream_is_drawn_as_the_service_steps(visit: Visit, page_server: Server) -> None:
    """A spike scores high; what is said below the chart is the last observation."""
    page = opened(visit)
    observe(page, 30, until=30)
    press(page, "Spike")
    observe(page, 5, until=36)
    values = assert_same_session(page, page_server)
    assert len(values) == 36
    shown = drawn(page)
    assert shown["anomaly"][30] > 5
    expect(page.get_by_text("Main: open, version 5, step 36")).to_be_visible()
    said = f"Observed {values[-1]:.5g}, anomaly {shown['anomaly'][-1]:.5g}, likelihood 0;"
    expect(page.get_by_text(said)).to_be_visible()


def test_a_service_with_keys_is_streamed_from_with_the_key(
    visits: VisitFactory, start_server: ServerFactory, tmp_path: Path
) -> None:
    """It goes with the WebSocket as a subprotocol."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "forecast-live").symlink_to(ROOT / "models" / "forecast-live")
    keys = Keyring("acme")
    server = start_server(tmp_path / "models", tmp_path / "state", BATON_API_KEYS=keys.setting)
    server.client.headers.update(keys.header("acme"))
    visit = visits(server.url)
    visit.page.add_init_script(f"sessionStorage.setItem('baton.key', '{keys['acme']}')")
    page = opened(visit)
    observe(page, 3, until=3)
    press(page, "Kill the connection")
    observe(page, 2, until=5)
    assert len(assert_same_session(page, server)) == 5


def test_equal_seeds_give_equal_observations(visit: Visit) -> None:
    page = opened(visit)
    observe(page, 1, until=1)  # so that a new stream is told from this by its step
    found: dict[tuple[str, str], list[float]] = {}
    for kind in ("sine", "steps", "walk"):
        for seed in ("7", "8", "7"):
            page.get_by_role("combobox", name="Source").select_option(kind)
            page.get_by_label("Seed").fill(seed)
            page.get_by_label("Seed").blur()
            press(page, "New stream")
            expect(page.get_by_text("Main: open, version 5, step 0")).to_be_visible()
            observe(page, 12, until=12)
            values = drawn(page)["values"]
            assert found.setdefault((kind, seed), values) == values
    assert len({tuple(values) for values in found.values()}) == 6
    for seed in ("", "-3", "1.7"):
        page.get_by_label("Seed").fill(seed)
        page.get_by_label("Seed").blur()
        expect(page.get_by_role("alert")).to_contain_text("A seed is a whole number from 0 to 4,294,967,295")
        expect(page.get_by_role("button", name="One observation")).to_be_disabled()


def test_a_pasted_series_is_played_to_its_end(visit: Visit, page_server: Server) -> None:
    page = opened(visit)
    page.get_by_role("combobox", name="Source").select_option("pasted")
    field = page.get_by_label("Values, as CSV; of several columns the first is played")
    values = [10.5, 11, 12, 11, 10, 9, 1e300]
    field.fill("\n".join(map(str, values)))
    page.get_by_label("Speed").fill("40")
    press(page, "Start")
    expect(page.get_by_text("Main: there are no more values to play.")).to_be_visible()
    wait_for_step(page, len(values))
    assert assert_same_session(page, page_server) == values
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_visible()
    field.fill("1\n\n3")
    expect(page.get_by_role("alert")).to_contain_text("Value 2 is a gap")
    field.fill("1\ntwo")
    expect(page.get_by_role("alert")).to_contain_text("Line 2, column 1: 'two'")
    expect(start).to_be_disabled()
    assert drawn(page)["values"] == values
    press(page, "New stream")
    expect(page.get_by_role("alert")).to_contain_text("Line 2, column 1: 'two'")
    expect(start).to_be_disabled()
    field.fill("1\n2")
    expect(page.get_by_role("alert")).to_have_count(0)
    observe(page, 2, until=2)
    assert drawn(page)["values"] == [1, 2]


def test_a_model_without_intervals_around_a_median_has_no_stream(visit: Visit, page_server: Server) -> None:
    facts = page_server.client.get("/v1/models/forecast-live").json()
    quantiles = next(output for output in facts["outputs"] if output["name"] == "quantiles")
    for labels in (["0.5"], ["0.1", "0.5", "0.8"], ["low", "0.5", "high"]):
        quantiles["labels"] = labels
        visit.page.route("**/v1/models/forecast-live", lambda route: route.fulfill(json=facts))
        page = visit.open("#stream")
        expect(page.get_by_role("tab", name="Stream")).to_have_count(0)


def test_the_window_is_bounded(visit: Visit) -> None:
    page = opened(visit)
    for last in range(62, 311, 62):
        observe(page, 62, until=last)
    shown = drawn(page)
    assert shown["steps"] == list(range(311 - WINDOW, 311))
    assert {len(column) for column in shown.values()} == {WINDOW}


def test_a_stream_plays_by_itself_and_pauses(visit: Visit, page_server: Server) -> None:
    """By keyboard alone."""
    page = opened(visit)
    page.get_by_role("button", name="Start", exact=True).focus()
    page.keyboard.press("Enter")
    wait_for_step(page, 8)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_focused()
    assert_same_session(page, page_server)


def test_a_stream_can_be_done_again_from_the_requests(visit: Visit, page_server: Server) -> None:
    """What was sent is recorded, and the Python lines give the outputs that were drawn."""
    page = opened(visit)
    observe(page, 3, until=3)
    press(page, "Kill the connection")
    observe(page, 1, until=4)
    shown = drawn(page)
    record = page.evaluate("import('/page/api.js').then(({records}) => records[0])")
    frames = [{"values": [value]} for value in shown["values"]]
    assert record == {"kind": "stream", "path": "/v1/stream", "open": {"model": "forecast-live"}, "frames": frames}
    page.get_by_role("tab", name="Requests").click()
    newest = page.locator(".records > li").first
    python = newest.locator("pre").first.inner_text()
    command = [sys.executable, "-c", python]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "client").stdout
    anomalies = [float(score) for score in re.findall(r"'anomaly': array\(([^,)]+)", printed)]
    assert anomalies == pytest.approx(shown["anomaly"], rel=TOLERANCE, abs=TOLERANCE)


def test_the_panel_stands_on_a_phone_and_in_the_dark(visit: Visit) -> None:
    page = opened(visit)
    observe(page, 25, until=25)
    press(page, "Fork")
    for scheme, width in (("dark", 1280), ("light", 360), ("dark", 360)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of two texts
        page.set_viewport_size({"width": width, "height": 800})
        chart = page.locator("#panel-stream .chart").element_handle()
        page.wait_for_function("chart => chart.layout.width === chart.clientWidth", arg=chart)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.violations() == []
