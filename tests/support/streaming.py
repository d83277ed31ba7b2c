"""The page's panel Stream as tests drive it: its buttons, its frames, and what is drawn.

Invariant: what is drawn is compared with what /v1/step answers for the same values.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from browsing import Visit
from conftest import Server
from playwright.sync_api import Page, WebSocket, expect

TOLERANCE = 1e-5  # of answers to equal rows in different company
PROBABILITIES = ("0.025", "0.1", "0.5", "0.9", "0.975")
TRACES = 7  # of a branch


class Wire:
    """The frames of a page's WebSockets, connection by connection."""

    def __init__(self, page: Page) -> None:
        self.sent: list[list[dict[str, Any]]] = []
        self.received: list[list[dict[str, Any]]] = []
        page.on("websocket", self._watch)

    def _watch(self, socket: WebSocket) -> None:
        sent: list[dict[str, Any]] = []
        received: list[dict[str, Any]] = []
        self.sent.append(sent)
        self.received.append(received)
        socket.on("framesent", lambda frame: sent.append(json.loads(frame)))
        socket.on("framereceived", lambda frame: received.append(json.loads(frame)))

    def token(self, step: int) -> str:
        """Return the token of the checkpoint that was made at a step."""
        frames = [frame for frames in self.received for frame in frames if frame["type"] == "checkpoint"]
        return next(str(frame["state"]) for frame in frames if frame["step"] == step)


def press(page: Page, name: str, times: int = 1) -> None:
    """Press a button, as often as said, in one go."""
    button = page.get_by_role("button", name=name, exact=True)
    button.evaluate("(button, times) => { for (let count = 0; count < times; count++) button.click(); }", times)


def observe(page: Page, count: int, until: int) -> None:
    """Have observations made, and wait until the step that they lead to is drawn."""
    press(page, "One observation", count)
    wait_for_step(page, until)


def wait_for_step(page: Page, step: int, branch: int = 0) -> None:
    drawn = """([step, branch, each]) =>
      document.querySelector("#panel-stream .chart").calcdata?.[branch * each + 5]?.at(-1)?.x === step"""
    page.wait_for_function(drawn, arg=[step, branch, TRACES])


def drawn(page: Page, branch: int = 0) -> dict[str, list[float]]:
    """Return what is drawn of a branch: steps, values, anomaly, and the quantiles by their probabilities."""
    every = page.evaluate("document.querySelector('#panel-stream .chart').data.map(({x, y}) => ({x, y}))")
    low, high, lower, higher, median, observed, anomaly = every[TRACES * branch : TRACES * (branch + 1)]
    assert anomaly["x"] == observed["x"]
    assert low["x"] == high["x"] == lower["x"] == higher["x"] == median["x"] == [step + 1 for step in observed["x"]]
    quantiles = zip(PROBABILITIES, (low, lower, median, higher, high), strict=True)
    return {
        "steps": observed["x"],
        "values": observed["y"],
        "anomaly": anomaly["y"],
        **{name: trace["y"] for name, trace in quantiles},
    }


def assert_same_session(
    page: Page, server: Server, *, branch: int = 0, after: int = 0, state: str | None = None
) -> list[float]:
    """Assert that what is drawn after a step is what /v1/step answers for these values; return them."""
    shown = drawn(page, branch)
    begin = shown["steps"].index(after + 1)
    values = shown["values"][begin:]
    assert shown["steps"][begin:] == list(range(after + 1, after + 1 + len(values)))
    item = {"values": values, **({} if state is None else {"state": state})}
    body = {"model": "forecast-live", "return": "all", "items": [item]}
    outputs = server.post("/v1/step", body).json()["results"][0]["outputs"]
    assert shown["anomaly"][begin:] == pytest.approx(outputs["anomaly"], rel=TOLERANCE, abs=TOLERANCE)
    facts = server.client.get("/v1/models/forecast-live").json()["outputs"]
    labels = next(output["labels"] for output in facts if output["name"] == "quantiles")
    for name in PROBABILITIES:
        expected = [row[labels.index(name)] for row in outputs["quantiles"]]
        assert shown[name][begin:] == pytest.approx(expected, rel=TOLERANCE)
    return values


def opened(visit: Visit) -> Page:
    page = visit.open("#stream")
    expect(page.get_by_text("Main: open, version")).to_be_visible()
    return page
