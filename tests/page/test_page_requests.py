"""Requests: lines that do again what the page did; each is run as it stands, and answered as the page was."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import playwright
import pytest
from browsing import Visit, VisitFactory, write
from conftest import Server, ServerFactory
from keyring import Keyring
from playwright.sync_api import Page, expect
from programs import find_program

NODE = Path(playwright.__file__).parent / "driver" / "node"
FORMS = ["curl", "Python", "JavaScript"]
LIVE = "sentiment-live"
KEYS = Keyring("acme")
KEY = KEYS["acme"]


def call(page: Page, method: str, path: str, body: object = None) -> Any:
    """Have the page's own module make a call."""
    script = "async ([method, path, body]) => (await import('/page/api.js')).call(method, path, body ?? undefined)"
    return page.evaluate(script, [method, path, body])


def newest(page: Page, of: str) -> dict[str, str]:
    """Return the lines of each form, as they stand, of the newest record whose headline holds a text."""
    page.get_by_role("tab", name="Requests").click()
    record = page.locator(".records details").filter(has=page.locator("summary", has_text=of)).first
    if record.get_attribute("open") is None:
        record.locator("summary").click()
    record.locator("pre").first.wait_for()
    names = record.get_by_role("heading").all_inner_texts()
    return dict(zip(names, record.locator("pre").all_text_contents(), strict=True))


def run_in_shell(text: str, **environment: str) -> str:
    return output_of([find_program("bash"), "-c", text], environment)


def run_in_shell_from_stdin(text: str) -> str:
    """Run lines as they are typed: none of them has to be an argument of the shell itself."""
    return output_of([find_program("bash")], {}, text)


def run_in_node(text: str, **environment: str) -> str:
    return output_of([str(NODE), "--input-type=module", "-e", text], environment)


def output_of(command: list[str], environment: dict[str, str], typed: str = "") -> str:
    path = {"PATH": "/usr/bin:/bin"}
    ended = subprocess.run(
        command, env={**path, **environment}, input=typed, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run_in_python(text: str) -> dict[str, Any]:
    """Run lines as an interpreter would, and return the names that they leave."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(text, names)
    return {**names, "printed": printed.getvalue()}


def without_timing(answer: Any) -> Any:
    """Return an answer without what differs each time that a thing is done."""
    changing = {"timing_ms", "usage", "state", "expires_at"}
    if isinstance(answer, dict):
        return {name: without_timing(each) for name, each in answer.items() if name not in changing}
    return [without_timing(each) for each in answer] if isinstance(answer, list) else answer


QUOTED = "It's \"fine\", isn't it?\n$HOME `ls` \\ 100 % \u00e4\U0001f600"
SERIES = [{"values": [1.5, None, 3, 4] * 12, "id": "a", "start": "2026-01-05", "freq": "D"}, {"values": [2.0] * 40}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sentiment", {"model": "spam", "inputs": [QUOTED, {"text": "Fine.", "id": "b"}], "scores": "all"}),
        ("/v1/forecast", {"model": "forecast", "series": SERIES, "horizon": 3, "levels": [80], "missing": "linear"}),
        ("/v1/step", {"model": LIVE, "items": [{"text": QUOTED}], "return": "all"}),
        ("/v1/classify", {"model": "spam", "items": [{"text": QUOTED}, {"text": "b", "id": "b"}], "scores": "all"}),
        ("/v1/step", {"model": "forecast-live", "items": [{"values": [1, 2.5]}, {"values": [3], "id": "c"}]}),
    ],
    ids=["sentiment", "forecast", "step", "classify", "steps"],
)
def test_lines_do_again_what_was_done(visit: Visit, path: str, body: dict[str, Any]) -> None:
    page = visit.open("#requests")
    answer = call(page, "POST", path, body)
    text = newest(page, path)
    assert list(text) == FORMS
    assert without_timing(json.loads(run_in_shell(text["curl"]))) == without_timing(answer)
    in_script = text["JavaScript"].replace("console.log(answer)", "console.log(JSON.stringify(answer))")
    assert without_timing(json.loads(run_in_node(in_script))) == without_timing(answer)
    run_in_node(text["JavaScript"])  # as it stands
    compare_in_python(run_in_python(text["Python"]), answer["results"])


def test_a_long_call_has_lines_that_a_shell_takes(visit: Visit) -> None:
    """Longer than a shell's argument may be; with a quote in it."""
    page = visit.open("#requests")
    body = {"model": "forecast", "series": [{"id": f"it's {index}", "values": [index] * 500} for index in range(100)]}
    answer = call(page, "POST", "/v1/forecast", {**body, "horizon": 1})
    lines = newest(page, "/v1/forecast")["curl"]
    assert len(lines) > 131_072
    assert without_timing(json.loads(run_in_shell_from_stdin(lines))) == without_timing(answer)


def compare_in_python(left: dict[str, Any], results: list[dict[str, Any]]) -> None:
    assert left["printed"].count("Result(") == len(results)
    made = list(left["answer"]) if len(results) > 1 else [left["answer"]]
    for one, other in zip(made, results, strict=True):
        if "label" in other:
            assert (one.id, one.label, one.scores) == (other["id"], other["label"], other["scores"])
        elif "mean" in other:
            assert one.mean.tolist() == other["mean"]
            assert {f"{level:g}": values.tolist() for level, values in one.quantiles.items()} == other["quantiles"]
        else:
            assert (one.id, one.step) == (other["id"], other["step"])
            assert {name: values.tolist() for name, values in one.outputs.items()} == other["outputs"]


def test_a_step_goes_on_from_the_token_that_its_lines_hold(visit: Visit) -> None:
    page = visit.open("#read")
    write(page, "a good film ")
    text = newest(page, "film")
    (result,) = json.loads(run_in_shell(text["curl"]))["results"]
    assert result["step"] == run_in_python(text["Python"])["answer"].step == 3


@pytest.mark.parametrize(("path", "read"), [("/v1/models", "models"), ("/v1/info", None)])
def test_lines_of_what_is_served_run(visit: Visit, path: str, read: str | None) -> None:
    page = visit.open("#requests")
    answer = call(page, "GET", path)
    text = newest(page, path)
    assert json.loads(run_in_shell(text["curl"])) == answer
    assert run_in_python(text["Python"])["answer"] == (answer if read is None else answer[read])


def test_what_the_client_has_no_method_for_has_no_lines_in_python(visit: Visit, page_server: Server) -> None:
    page = visit.open("#requests")
    page.evaluate("async () => (await import('/page/api.js')).text('/v1/models/spam/card')")
    text = newest(page, "/card")
    assert list(text) == ["curl", "JavaScript"]
    card = page_server.client.get("/v1/models/spam/card").text
    assert (run_in_shell(text["curl"]), run_in_node(text["JavaScript"])) == (card, f"{card}\n")


def test_lines_of_a_stream_take_its_steps_again(visit: Visit, page_server: Server) -> None:
    page = visit.open("#requests")
    record = {
        "kind": "stream",
        "path": "/v1/stream",
        "open": {"model": "forecast-live", "checkpoint_every": 2},
        "frames": [{"values": [1, 2]}, {"checkpoint": True}, {"values": [3.5], "checkpoint": True}],
    }
    page.evaluate("async (entry) => (await import('/page/api.js')).record(entry)", record)
    text = newest(page, "/v1/stream")
    assert list(text) == ["Python", "JavaScript"]
    body = {"model": "forecast-live", "items": [{"values": [1, 2, 3.5]}]}
    (last,) = page_server.post("/v1/step", body).json()["results"]
    told = [json.loads(line) for line in run_in_node(text["JavaScript"]).splitlines()]
    steps = [message for message in told if message["type"] == "step"]
    assert [message["step"] for message in steps] == [2, 3]
    assert steps[-1]["outputs"] == last["outputs"]
    assert run_in_python(text["Python"])["printed"].count("step=") == 2


def test_a_click_copies(visit: Visit) -> None:
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open("#requests")
    for count, (name, text) in enumerate(newest(page, "/v1/").items(), start=1):
        page.get_by_role("button", name=f"Copy {name}").click()
        expect(page.get_by_text("Copied.")).to_have_count(count)
        assert page.evaluate("navigator.clipboard.readText()") == text


def test_the_last_twenty_are_kept_newest_first(visit: Visit) -> None:
    page = visit.open("#requests")
    for number in range(25):
        call(page, "POST", "/v1/sentiment", {"inputs": [f"number {number}"]})
    told = page.locator(".records summary").all_inner_texts()
    assert len(told) == 20
    assert ["number 24" in told[0], "number 5" in told[-1]] == [True, True]


def test_with_keys_lines_read_the_key_from_a_variable(
    visits: VisitFactory,
    start_server: ServerFactory,
    tiny_models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key itself is in no line."""
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=KEYS.setting)
    visit = visits(server.url)
    visit.expected.append("status of 401")
    page = visit.page
    page.goto(server.url)
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("tab").first.wait_for()
    answer = call(page, "POST", "/v1/sentiment", {"inputs": ["a good film"], "scores": "all"})
    text = newest(page, "a good film")
    assert not [form for form in text.values() if KEY in form]
    monkeypatch.setenv("API_KEY", KEY)
    assert without_timing(json.loads(run_in_shell(text["curl"], API_KEY=KEY))) == without_timing(answer)
    assert "label" in run_in_node(text["JavaScript"], API_KEY=KEY)
    compare_in_python({**(left := run_in_python(text["Python"])), "answer": left["answer"][0]}, answer["results"])
    record = {"kind": "stream", "path": "/v1/stream", "open": {"model": "numbers"}, "frames": [{"values": [1]}]}
    page.evaluate("async (entry) => (await import('/page/api.js')).record(entry)", record)
    text = newest(page, "/v1/stream")
    assert not [form for form in text.values() if KEY in form]
    told = [json.loads(line) for line in run_in_node(text["JavaScript"], API_KEY=KEY).splitlines()]
    assert [message["type"] for message in told] == ["open", "step"]
