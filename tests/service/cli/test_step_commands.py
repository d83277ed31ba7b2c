"""`baton step` and `baton stream`: sessions that go on, whoever takes the next step, and streams that are restarted."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import ROOT, Server
from line_streams import piped, streaming

pytestmark = pytest.mark.usefixtures("command_settings")

ROWS = [[0.5, -1.0], [1.5, 0.25], [-2.0, 3.0], [0.125, 0.5], [1.0, 1.0], [0.0, -0.5]]
GIVEN = [f"{one},{other}" for one, other in ROWS]


def test_steps_are_those_of_the_api(command_server: Server) -> None:
    answered = command_server.post("/v1/step", {"model": "stepper", "return": "all", "items": [{"inputs": ROWS[:4]}]})
    outputs = answered.json()["results"][0]["outputs"]["y"]
    rows = run("step", "stepper", *GIVEN[:4]).rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, y in zip(rows, outputs, strict=True):
        assert row["y"] == pytest.approx(y, abs=1e-5)


def test_a_session_goes_on_where_its_state_is_here_or_at_a_service(command_server: Server, tmp_path: Path) -> None:
    state, whole = tmp_path / "state.txt", run("step", "stepper", *GIVEN).rows
    begun = run("step", "stepper", *GIVEN[:3], "--save-state", state)
    assert f"the state after step 3 is in {state}, good until " in begun.stderr
    here = run("step", "stepper", *GIVEN[3:], "--state", f"@{state}").rows
    there = run("step", "stepper", *GIVEN[3:], "--state", state.read_text().strip(), "--url", command_server.url).rows
    for row, one, other in zip(whole[3:], here, there, strict=True):
        assert one["step"] == other["step"] == row["step"]
        assert one["y"] == pytest.approx(row["y"], abs=1e-5)
        assert other["y"] == pytest.approx(row["y"], abs=1e-5)


def test_every_form_of_steps_is_read_alike(tmp_path: Path) -> None:
    whole = run("step", "stepper", *GIVEN).stdout
    (tmp_path / "rows.txt").write_text("\n".join(f"{one} {other}" for one, other in ROWS))
    (tmp_path / "rows.csv").write_text("\n".join(["a,b", *GIVEN]))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert run("step", "stepper", "--file", tmp_path / "rows.txt").stdout == whole
    assert run("step", "stepper", "--file", tmp_path / "rows.csv", "--column", "a", "--column", "b").stdout == whole
    assert run("step", "stepper", "--file", tmp_path / "rows.jsonl").stdout == whole
    assert run("step", "stepper", stdin="\n".join(GIVEN)).stdout == whole


def test_a_text_s_steps_are_its_tokens() -> None:
    rows = run("step", "reader", "a good film").rows
    assert [row["token"] for row in rows] == ["a", "good", "film"]
    assert all(sum(row["scores"].values()) == pytest.approx(1, abs=1e-5) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stepper", "1"], "step 1: 1 numbers; stepper takes 2 in a step"),
        (["numbers", "1", "x"], "step 2: 'x' is no number"),
        (["numbers", "nan"], "step 1: 'nan' is not finite"),
        (["sentiment", "good"], "sentiment takes no steps; its task is sentiment"),
        (["zebra", "1"], "no model is called 'zebra'"),
        (["numbers", "1", "--state", "abc"], "(see docs/errors.md#state_invalid)"),
        (["numbers", "1", "--state", "@nowhere"], "--state @nowhere: "),
        (
            ["numbers", "1", "--save-state", "nowhere/state"],
            "--save-state nowhere/state: nothing can be written to the directory ",
        ),
        (["numbers", "-"], "there are no steps"),
        (["reader", " "], "there are no steps"),
    ],
)
def test_what_will_not_do_is_one_line_that_says_what_would(arguments: list[str], says: str) -> None:
    ended = run("step", *arguments)
    assert ended.status == 1
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_misspelt_option_is_no_step_and_a_number_below_zero_is_one() -> None:
    assert run("step", "reader", "--zebra", "good").status == run("forecast", "1", "-z", "--horizon", 1).status == 2
    assert [row["total"] for row in run("step", "numbers", "3", "-1").rows] == [[3.0], [5.0]]


def test_each_line_is_answered_as_it_comes_and_a_restart_goes_on(tmp_path: Path) -> None:
    checkpoint, values = tmp_path / "checkpoint.json", [1, 2, 3, 4, 5, 6]
    whole = run("step", "numbers", *values).rows
    answers = []
    with streaming("numbers", "--checkpoint", checkpoint) as stream:
        answers += [stream.feed(value) for value in values[:2]]
        assert f"begins anew; the checkpoint is {checkpoint}" in stream.end(signal.SIGINT)
    kept = json.loads(checkpoint.read_text())
    assert (kept["model"], kept["step"], checkpoint.stat().st_mode & 0o777) == ("numbers", 2, 0o600)
    with streaming("numbers", "--checkpoint", checkpoint) as stream:
        answers += [stream.feed(value) for value in values[2:4]]
        assert f"goes on from step 2, line 2; stdin begins at line 3; the checkpoint is {checkpoint}" in stream.end(
            signal.SIGTERM
        )
    ended = run_stream(checkpoint, values[4:])
    answers += ended
    assert [answer["step"] for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert [answer["value"] for answer in answers] == values
    assert [answer["total"] for answer in answers] == [row["total"] for row in whole]


def run_stream(checkpoint: Path, values: list[int]) -> list[dict[str, Any]]:
    with streaming("numbers", "--checkpoint", checkpoint) as stream:
        answers = [stream.feed(value) for value in values]
        stream.end()
    return answers


def test_a_reader_that_leaves_ends_the_stream_cleanly(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    with streaming("numbers", "--checkpoint", checkpoint) as stream:
        stream.feed(1)
        assert stream.process.stdin is not None
        assert stream.process.stdout is not None
        assert stream.process.stderr is not None
        stream.process.stdout.close()
        stream.process.stdin.write("2\n")
        assert stream.process.wait() == 0
        assert "Traceback" not in stream.process.stderr.read()
    assert json.loads(checkpoint.read_text())["step"] == 1


def test_lines_at_hand_are_answered_as_they_would_be_one_by_one_also_in_columns(tmp_path: Path) -> None:
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9]  # more than one request holds
    whole = [row["total"] for row in run("step", "numbers", *values).rows]
    table = "".join(f"2026-01-0{value},{value}\n" for value in values)
    objects = "".join(json.dumps({"day": f"2026-01-0{value}", "y": value}) + "\n" for value in values)
    named = ("--column", "y", "--time", "day")
    for options, lines in (
        ([], "\n".join(map(str, values))),
        (["--format", "csv", *named], f"day,y\n{table}"),
        (["--format", "jsonl", *named], objects),
    ):
        ended = piped("numbers", "--fresh", "--checkpoint", tmp_path / "checkpoint.json", *options, lines=lines)
        rows = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [row["total"] for row in rows] == whole
        if options:
            assert [row["time"] for row in rows] == [f"2026-01-0{value}" for value in values]


def test_a_line_that_is_no_step_stops_the_stream_behind_those_before_it_or_is_skipped(tmp_path: Path) -> None:
    options = ["numbers", "--fresh", "--checkpoint", tmp_path / "checkpoint.json"]
    stopped = piped(*options, lines="1\n2\nx\n4\n")
    assert (stopped.returncode, len(stopped.stdout.splitlines())) == (1, 2)
    assert "baton: line 3: 'x' is no number; --bad skip goes on behind it" in stopped.stderr
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 2
    skipped = piped(*options, "--bad", "skip", lines="1\n2\nx\n\n4\n")
    assert (skipped.returncode, len(skipped.stdout.splitlines())) == (0, 3)
    assert "baton: line 3 is skipped: 'x' is no number" in skipped.stderr


def test_a_checkpoint_that_cannot_be_used_is_never_passed_over(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    options = ["numbers", "--checkpoint", checkpoint]
    run_stream(checkpoint, [1])
    kept = json.loads(checkpoint.read_text())
    for content, says in (
        (json.dumps(kept | {"state": kept["state"][:-4] + "AAAA"}), "(see docs/errors.md#state_invalid); --fresh"),
        (json.dumps(kept | {"model": "stepper"}), f"{checkpoint} is of stepper; name another --checkpoint"),
        ("{}", f"{checkpoint} is no checkpoint"),
        ("", f"{checkpoint} is no checkpoint"),
    ):
        checkpoint.write_text(content)
        ended = piped(*options, lines="2\n")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert says in ended.stderr
        assert checkpoint.read_text() == content
    assert piped(*options, "--fresh", lines="2\n").returncode == 0


def test_two_streams_never_share_a_checkpoint(tmp_path: Path) -> None:
    with (tmp_path / ".checkpoint.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = run("stream", "numbers", "--checkpoint", tmp_path / "checkpoint.json")
    assert (ended.status, "give this one a --checkpoint of its own" in ended.stderr) == (1, True)


def test_what_stands_out_is_shown_with_what_was_expected_across_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATON_MODELS_DIR", str(ROOT / "models"))
    monkeypatch.delenv("BATON_MAX_STEPS")
    options = ["forecast-live", "--anomaly", "3", "--checkpoint", tmp_path / "checkpoint.json"]
    quiet = "".join(f"{10 + (place * 7) % 5}\n" for place in range(60))
    settling = piped(*options, lines=quiet).stdout.splitlines()
    assert all(json.loads(line)["step"] < 20 for line in settling)
    (found,) = map(json.loads, piped(*options, lines="10\n12\n100\n").stdout.splitlines())
    assert (found["step"], found["value"], found["score"]) == (63, 100.0, 10.0)
    low, high = found["expected"]
    assert 5 < low < high < 20
    first = piped(*options, "--fresh", lines="10\n").stderr
    assert "begins anew" in first


def test_what_people_would_mark_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value beyond the range so far, once; the next ones as far out are no news."""
    monkeypatch.setenv("BATON_MODELS_DIR", str(ROOT / "models"))
    monkeypatch.delenv("BATON_MAX_STEPS")
    options = ["forecast-live", "--likelihood", "0.45", "--checkpoint", tmp_path / "checkpoint.json"]
    lines = "".join(f"{100 if place in (180, 182) else 10 + (place * 7) % 5}\n" for place in range(200))
    (found,) = map(json.loads, piped(*options, lines=lines).stdout.splitlines())
    assert (found["step"], found["value"]) == (181, 100.0)
    assert 0.45 < found["score"] < 1


def test_scores_are_asked_of_a_model_that_gives_them(tmp_path: Path) -> None:
    ended = run("stream", "numbers", "--anomaly", "3", "--checkpoint", tmp_path / "checkpoint.json")
    assert (ended.status, "numbers gives no output 'anomaly', only total" in ended.stderr) == (1, True)
    ended = run("stream", "numbers", "--likelihood", "0.5", "--checkpoint", tmp_path / "checkpoint.json")
    assert (ended.status, "leave out --likelihood" in ended.stderr) == (1, True)


def test_a_text_stream_reads_on_word_by_word(tmp_path: Path) -> None:
    options = ["reader", "--checkpoint", tmp_path / "checkpoint.json"]
    lines = piped(*options, lines="a good\n").stdout + piped(*options, lines="\nfilm !\n").stdout
    rows, whole = [json.loads(line) for line in lines.splitlines()], run("step", "reader", "a good film !").rows
    assert [row["token"] for row in rows] == ["a", "good", "film", "!"]
    assert [row["scores"] for row in rows] == [pytest.approx(row["scores"], abs=1e-5) for row in whole]
    assert os.path.exists(tmp_path / "checkpoint.json")
