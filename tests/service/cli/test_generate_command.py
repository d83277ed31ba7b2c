"""What `baton generate` makes of answers that a real service gives seldom, and of files that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answering import LAST, answering, told
from commands import run

END = {
    "index": 0,
    "choice": 0,
    "seed": 1,
    "steps": 3,
    "finish": "length",
    "version": "1",
    "state": "token",
    "step": 3,
    "expires_at": "2100-01-01T00:00:00Z",
}
BREAKS = "a\u2028b\u2029c\x85d"


def test_a_text_is_shown_whatever_ends_a_line_in_it() -> None:
    with answering(told({"index": 0, "choice": 0, "text": BREAKS}, END, LAST)) as (url, _):
        ended = run("generate", "x", "--url", url, terminal=True)
    assert (ended.status, ended.stdout) == (0, BREAKS)


def test_points_are_shown_a_line_each() -> None:
    first, rest = {"index": 0, "choice": 0, "points": [[0.25, -1.5, 0]]}, {**END, "points": [[3, 0.125, 1], [1, 2, 0]]}
    with answering(told(first, rest, LAST)) as (url, _):
        ended = run("generate", "--url", url, terminal=True)
    assert (ended.status, ended.stdout) == (0, "0.25 -1.5 0\n3 0.125 1\n1 2 0\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_was_cut_short_is_shown_and_its_state_kept_before_it_is_said(tmp_path: Path, terminal: bool) -> None:
    kept, cut = tmp_path / "state", {**END, "text": "abc", "finish": "error"}
    failed = {"index": 0, "id": None, "error": {"code": "draining", "message": "the service is shutting down"}}
    whole = json.dumps({"results": [{**failed, "choices": [cut]}], "error": failed["error"]}).encode()
    with answering(told(cut, failed, LAST) if terminal else (503, "application/json", whole)) as (url, _):
        ended = run("generate", "x", "--url", url, "--state-file", kept, terminal=terminal)
    assert (ended.stdout if terminal else ended.rows[0]["text"]) == "abc"
    assert kept.read_text() == "token\n"
    assert ended.stderr.splitlines()[-1] == "baton: the service is shutting down (see docs/errors.md#draining)"
    assert ended.status == 1


def test_a_state_replaces_its_file_as_a_whole(tmp_path: Path) -> None:
    """Also where it is a link; who has the file open keeps what was there."""
    kept, link = tmp_path / "state", tmp_path / "link"
    kept.write_text("before")
    link.symlink_to(kept)
    with answering(told(END, LAST)) as (url, _), kept.open() as opened:
        assert run("generate", "--url", url, "--state-file", link, terminal=True).status == 0
        assert opened.read() == "before"
    assert (link.readlink(), kept.read_text(), kept.stat().st_mode & 0o777) == (kept, "token\n", 0o600)
    assert sorted(tmp_path.iterdir()) == [link, kept]


@pytest.mark.parametrize("command", [("generate", "--state-file"), ("step", "m", "1", "--save-state")])
def test_a_state_that_could_not_be_kept_is_not_asked_for(tmp_path: Path, command: tuple[str, ...]) -> None:
    output = tmp_path / "out.jsonl"
    with answering() as (url, asked):
        for file, says in [
            (output, f"{output} is the --output, too; name another file"),
            (tmp_path / "nowhere" / "state", f"nothing can be written to the directory {tmp_path}/nowhere"),
            ("/dev/null", "/dev/null: is no regular file"),
        ]:
            ended = run(*command, file, "--output", output, "--url", url)
            assert (ended.status, ended.stdout) == (1, "")
            assert says in ended.stderr
    assert asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("generate", "--state-file", "{}"), ("step", "m", "1", "--state", "@{}")])
def test_an_empty_file_is_no_state(tmp_path: Path, command: tuple[str, ...]) -> None:
    kept = tmp_path / "state"
    kept.write_text("\n")
    with answering() as (url, asked):
        ended = run(*(part.format(kept) for part in command), "--url", url)
    assert (ended.status, asked) == (1, [])
    assert "the file is empty, and holds no state; remove it to begin anew" in ended.stderr
