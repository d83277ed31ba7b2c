"""The part Forecast of the page, as a test works it: what is written there, sent, answered and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas
from browsing import Visit
from conftest import Server
from playwright.sync_api import Page

WEEKS = [120, 124, 131, 128, 135, 139, 137, 142, 148, 144, 151, 149, 156, 160, 157, 163, 161, 168, 172, 166, 171, 177]
WEEKLY = "week,sales\n" + "".join(
    f"{day:%Y-%m-%d},{value}\n"
    for day, value in zip(pandas.date_range("2026-01-05", periods=len(WEEKS), freq="W-MON"), WEEKS, strict=True)
)
TEXT = "Values, as CSV: a column for each series, times in the first if there are any"
TOLERANCE = 1e-5  # of answers to equal rows in different company

Answered = tuple[dict[str, Any], dict[str, Any]]


def forecast_after(page: Page, act: Callable[[], object]) -> Answered:
    """Act, and return the request that this makes and its answer, once that is drawn."""
    with page.expect_response("**/v1/forecast") as caught:
        act()
    answer = caught.value.json()
    wait_for_means(page, [result["mean"] for result in answer["results"]])
    return caught.value.request.post_data_json, answer


def wait_for_means(page: Page, means: Sequence[Sequence[float]]) -> None:
    same = """means => {
      const chart = document.querySelector("#panel-forecast .chart");
      const drawn = (chart.data ?? []).filter(({name}) => name.endsWith(", mean")).map(({y}) => y);
      return JSON.stringify(drawn) === JSON.stringify(means);
    }"""
    page.wait_for_function(same, arg=means)


def opened(visit: Visit) -> Page:
    """Open the panel, and wait for the forecast of the first example."""
    with visit.page.expect_response("**/v1/forecast") as caught:
        page = visit.open("#forecast")
    wait_for_means(page, [result["mean"] for result in caught.value.json()["results"]])
    return page


def write(page: Page, text: str) -> Answered:
    return forecast_after(page, lambda: page.get_by_label(TEXT).fill(text))


def traces(page: Page) -> dict[str, dict[str, Any]]:
    """Return what is drawn, by name: {x, y}."""
    drawn = page.evaluate("document.querySelector('#panel-forecast .chart').data.map(({name, x, y}) => ({name, x, y}))")
    return {trace["name"]: trace for trace in drawn}


def asked(server: Server, **body: Any) -> list[dict[str, Any]]:
    """Ask the service itself."""
    results: list[dict[str, Any]] = server.post("/v1/forecast", body).json()["results"]
    return results
