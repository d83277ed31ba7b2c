"""Stream: sessions outlive their connections, go back to checkpoints and part in two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import Visit, VisitFactory
from conftest import ROOT, Server, ServerFactory, free_port
from playwright.sync_api import WebSocketRoute, expect
from streaming import TRACES, Wire, assert_same_session, drawn, observe, opened, press, wait_for_step


def test_a_killed_connection_changes_nothing(visit: Visit, page_server: Server) -> None:
    """The stream goes on from the last checkpoint, sends again what came after it, and draws each output once."""
    wire = Wire(visit.page)
    page = opened(visit)
    observe(page, 27, until=27)
    press(page, "Kill the connection")
    observe(page, 10, until=37)
    assert_same_session(page, page_server)
    _, second = wire.sent
    assert second[0] == {"model": "forecast-live", "state": wire.token(20)}
    values = [frame["values"][0] for frame in second[1:] if "values" in frame]
    assert values == drawn(page)["values"][20:]
    expect(page.get_by_text("connection lost at step 27 (cut here); resumed from step 20, 7 of its")).to_be_visible()
    assert page.evaluate("document.querySelector('#panel-stream .chart').layout.shapes.at(1).x0") == 27.5


def test_a_stream_without_a_checkpoint_begins_again_with_its_version(visit: Visit, page_server: Server) -> None:
    wire = Wire(visit.page)
    page = opened(visit)
    observe(page, 5, until=5)
    press(page, "Kill the connection")
    observe(page, 2, until=7)
    assert wire.sent[1][0] == {"model": "forecast-live", "version": "5"}
    assert_same_session(page, page_server)


def test_observations_in_flight_survive(visit: Visit, page_server: Server) -> None:
    """Again and again the connection is cut right behind what was sent."""
    page = opened(visit)
    for _ in range(4):
        press(page, "One observation", 13)
        press(page, "Kill the connection")
    wait_for_step(page, 52)
    assert_same_session(page, page_server)


def test_a_service_that_is_killed_and_started_again_is_found(
    visits: VisitFactory, start_server: ServerFactory, live_model: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    server = start_server(live_model, tmp_path, BATON_PORT=port)
    visit = visits(server.url)
    visit.expected.append("WebSocket connection to")
    page = opened(visit)
    observe(page, 24, until=24)
    server.kill()
    press(page, "One observation", 3)
    server.start()
    wait_for_step(page, 27)
    assert_same_session(page, server)


def test_a_stream_that_cannot_go_on_says_so(
    visits: VisitFactory, start_server: ServerFactory, live_model: Path, tmp_path: Path
) -> None:
    """It tries for a while, then tells why; when told to, it goes on from where it stands."""
    port = str(free_port())
    server = start_server(live_model, tmp_path, BATON_PORT=port)
    visit = visits(server.url)
    visit.expected.append("WebSocket connection to")
    visit.page.clock.install()
    page = opened(visit)
    observe(page, 1, until=1)
    server.kill()
    press(page, "One observation")
    alert = page.get_by_role("alert")
    while not alert.is_visible():
        page.clock.run_for(4000)
    expect(alert).to_contain_text("8 attempts to connect again came to nothing")
    start = page.get_by_role("button", name="Start", exact=True)
    expect(start).to_be_disabled()
    server.start()
    alert.get_by_role("button", name="Try again").click()
    wait_for_step(page, 2)
    expect(alert).to_have_count(0)
    expect(start).to_be_enabled()
    assert_same_session(page, server)


def test_a_service_that_says_nothing_is_taken_for_lost(visit: Visit, page_server: Server) -> None:
    """Neither a connection that is never answered nor an observation without an answer holds a stream up."""
    routes: list[WebSocketRoute] = []

    def hold_up(route: WebSocketRoute) -> None:
        routes.append(route)
        if len(routes) == 1:
            return
        upstream = route.connect_to_server()
        route.on_message(lambda frame: None if len(routes) == 2 and "model" not in str(frame) else upstream.send(frame))

    page = visit.page
    page.clock.install()
    page.route_web_socket("**/v1/stream", hold_up)
    visit.open("#stream")
    expect(page.get_by_text("Main: connecting")).to_be_visible()
    page.clock.run_for(16_000)
    expect(page.get_by_text("Main: open, version 5, step 0")).to_be_visible()
    press(page, "One observation", 102)
    expect(page.get_by_text("101 frames wait for an answer")).to_be_visible()
    page.clock.run_for(16_000)
    wait_for_step(page, 97)  # and four checkpoints
    assert_same_session(page, page_server)
    expect(page.get_by_text("silent for 15 s").first).to_be_visible()  # again, where the service is slow to answer


@pytest.fixture(scope="module")
def live_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory of forecast-live alone."""
    models = tmp_path_factory.mktemp("live")
    (models / "forecast-live").symlink_to(ROOT / "models" / "forecast-live")
    return models


def test_a_refused_session_is_given_up_at_once(visit: Visit) -> None:
    """A state that the service does not take ends the stream with the service's own reason."""
    page = visit.page

    def refuse(socket: WebSocketRoute) -> None:
        error = {"code": "state_expired", "message": "the state has expired"}
        frame = json.dumps({"type": "error", "final": True, "error": error})
        socket.on_message(lambda _: (socket.send(frame), socket.close(code=1008)))

    page.route_web_socket("**/v1/stream", refuse)
    visit.open("#stream")
    expect(page.get_by_role("alert")).to_contain_text("the state has expired")
    expect(page.get_by_role("alert")).to_contain_text("code state_expired")


def test_a_stream_that_was_ended_while_nothing_came_goes_on_with_the_next(visit: Visit, page_server: Server) -> None:
    """There is no reason to connect before there is something to send."""
    routes: list[WebSocketRoute] = []

    def through(route: WebSocketRoute) -> None:
        route.connect_to_server()
        routes.append(route)

    visit.page.route_web_socket("**/v1/stream", through)
    page = opened(visit)
    observe(page, 3, until=3)
    routes[0].close(code=3001)
    expect(page.get_by_text("Main: idle, version 5, step 3")).to_be_visible()
    observe(page, 2, until=5)
    assert len(routes) == 2
    assert_same_session(page, page_server)


def test_rewind_goes_back_to_a_checkpoint(visit: Visit, page_server: Server) -> None:
    """From there the same observations come again, and have the same outputs."""
    wire = Wire(visit.page)
    page = opened(visit)
    observe(page, 45, until=45)
    before = drawn(page)
    page.get_by_label("Seed").fill("9")
    page.get_by_label("Seed").blur()
    page.get_by_label("Go back to").select_option("20")
    press(page, "Rewind")
    observe(page, 10, until=30)
    after = drawn(page)
    assert wire.sent[1][0]["state"] == wire.token(20)
    assert after == {name: column[:30] for name, column in before.items()}
    assert_same_session(page, page_server, after=20, state=wire.token(20))
    expect(page.get_by_text("Main: rewound from step 45 to 20.")).to_be_visible()
    expect(page.get_by_label("Seed")).to_have_value("1")
    assert page.get_by_label("Go back to").locator("option").all_inner_texts() == ["Latest, step 20", "Step 20"]


def test_a_token_that_is_refused_leaves_the_stream_as_it_is(visit: Visit, page_server: Server) -> None:
    """Rewind and Fork change nothing before the service has taken the token."""
    refused: list[WebSocketRoute] = []

    def refuse_two(route: WebSocketRoute) -> None:
        upstream = route.connect_to_server()
        error = {"type": "error", "final": True, "error": {"code": "state_expired", "message": "the state has expired"}}

        def open_with(frame: str | bytes) -> None:
            if "state" not in json.loads(frame) or len(refused) == 2:
                return upstream.send(frame)
            refused.append(route)
            route.send(json.dumps(error))
            route.close(code=1008)

        route.on_message(open_with)

    visit.page.route_web_socket("**/v1/stream", refuse_two)
    page = opened(visit)
    observe(page, 45, until=45)
    page.get_by_label("Go back to").select_option("20")
    alert = page.get_by_role("alert")
    for act, last in (("Rewind", 46), ("Fork", 47)):
        press(page, act)
        expect(alert).to_contain_text("code state_expired")
        observe(page, 1, until=last)
    assert len(refused) == 2
    assert page.get_by_label("Go back to").locator("option").all_inner_texts()[1:] == ["Step 40", "Step 20"]
    assert_same_session(page, page_server)
    press(page, "Rewind")
    expect(page.get_by_text("Main: rewound from step 47 to 20.")).to_be_visible()
    expect(alert).to_have_count(0)


def test_checkpoints_made_by_hand_or_chosen_are_kept(visit: Visit) -> None:
    """Others make room, the oldest first; of those made by hand there is a bound, which is told."""
    kept, full = opened(visit).evaluate(
        """async () => {
          const { Checkpoints } = await import("/page/checkpoints.js");
          const checkpoints = new Checkpoints({ Checkpoint() {}, Rewind() {} }, () => {});
          const keep = (step, byHand) => checkpoints.keep({ model: "m", step, expires: 0, state: "", byHand });
          keep(3, true);
          for (let step = 20; step <= 40; step += 20) keep(step, false);
          keep(40, true);
          checkpoints.which.value = "20";
          for (let step = 60; step <= 2000; step += 20) keep(step, false);
          const kept = [checkpoints.chosen().step, ...checkpoints.kept.map(({ step }) => step)];
          for (let step = 2001; step <= 2028; step++) keep(step, true);
          return [kept, [keep(2029, true), keep(2028, true), checkpoints.kept.length]];
        }"""
    )
    assert kept == [20, 3, 20, 40, *range(1440, 2001, 20)]
    assert full == [False, True, 60]


def test_a_fork_goes_on_from_checkpoints_of_its_own(visit: Visit, page_server: Server) -> None:
    wire = Wire(visit.page)
    page = opened(visit)
    observe(page, 20, until=20)
    press(page, "Fork")
    expect(page.get_by_text("Fork: open, version 5, step 20")).to_be_visible()
    press(page, "One observation", 25)
    wait_for_step(page, 45)
    wait_for_step(page, 45, branch=1)
    press(page, "Kill the connection")
    expect(page.get_by_text("Fork: connection lost at step 45 (cut here); resumed from step 40, 5 of")).to_be_visible()
    assert_same_session(page, page_server, branch=1, after=20, state=wire.token(20))
    assert page.get_by_label("Go back to").locator("option").all_inner_texts()[1:] == ["Step 40", "Step 20"]
    visit.page.route_web_socket("**/v1/stream", lambda route: route.close(code=1008))
    press(page, "Kill the connection")
    expect(page.get_by_role("alert")).to_contain_text("The stream has ended")
    press(page, "End the fork")
    expect(page.get_by_text("Fork: failed")).to_have_count(0)


def test_a_fork_goes_its_own_way_from_one_token(visit: Visit, page_server: Server) -> None:
    """Both branches equal fresh sessions from the token; neither touches the other."""
    wire = Wire(visit.page)
    page = opened(visit)
    observe(page, 23, until=23)
    press(page, "Checkpoint")
    expect(page.get_by_label("Go back to").locator("option").first).to_have_text("Latest, step 23")
    press(page, "Fork")
    expect(page.get_by_text("Fork: open, version 5, step 23")).to_be_visible()
    press(page, "Spike")
    press(page, "One observation", 6)
    wait_for_step(page, 30)
    wait_for_step(page, 30, branch=1)
    token = wire.token(23)
    assert wire.sent[1][0] == {"model": "forecast-live", "state": token}
    main = assert_same_session(page, page_server, after=23, state=token)
    fork = assert_same_session(page, page_server, branch=1, after=23, state=token)
    assert main != fork
    assert_same_session(page, page_server)
    press(page, "Kill the connection")
    press(page, "One observation", 2)
    wait_for_step(page, 32)
    wait_for_step(page, 32, branch=1)
    assert_same_session(page, page_server)
    assert_same_session(page, page_server, branch=1, after=23, state=token)
    assert visit.violations() == []
    press(page, "End the fork")
    page.wait_for_function("each => document.querySelector('#panel-stream .chart').data.length === each", arg=TRACES)


def test_the_token_s_facts_are_shown(visit: Visit) -> None:
    wire = Wire(visit.page)
    page = opened(visit)
    expect(page.get_by_role("button", name="Rewind")).to_be_disabled()
    observe(page, 3, until=3)
    press(page, "Checkpoint")
    expect(page.get_by_label("Go back to").locator("option").first).to_have_text("Latest, step 3")
    names, values = (page.locator(f"#panel-stream {tag}").all_inner_texts() for tag in ("dt", "dd"))
    facts = dict(zip(names, values, strict=True))
    token = wire.token(3)
    assert facts["Model"] == "forecast-live"
    assert (facts["Version"], facts["Step"], facts["Bytes"]) == ("5", "3", f"{len(token):,}")
    assert facts["Token"] == f"{token[:24]}…"
    expires = next(frame["expires_at"] for frame in wire.received[0] if frame["type"] == "checkpoint")
    assert facts["Expires"] == page.evaluate(
        "at => new Date(at).toLocaleString('en-GB', {dateStyle: 'medium', timeStyle: 'short'})", expires
    )
