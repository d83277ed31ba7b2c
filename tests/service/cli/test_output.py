"""What commands have done is kept: files are replaced as a whole, and what fails later loses nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
from commands import run
from conftest import ROOT
from handlers import QuietHandler, handled_by

pytestmark = pytest.mark.usefixtures("command_settings")

SERIES = [3.0, 1.0, 4.0, 1.5, 5.0]
ANSWER = {"results": [{"index": 0, "id": None, "label": "positive", "warnings": [], "mean": [1.0], "quantiles": {}}]}


FATAL = b"7"
LINES = "1 2\n1 2\n" + 4 * "1 7\n"


@contextmanager
def answering(answer: object) -> Iterator[str]:
    """A service that takes an item a request, gives each `answer`, and one that holds a FATAL number no HTTP."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._answer({"limits": {"max_items": 1, "max_body_bytes": 1000}})

        def do_POST(self) -> None:
            if FATAL not in self.rfile.read(int(self.headers["content-length"])):
                self._answer(answer)

        def _answer(self, content: object) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

    with handled_by(Handler) as url:
        yield url


@pytest.mark.parametrize("command", [["sentiment"], ["forecast", "--horizon", 1]])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_service_that_dies_midway_leaves_what_it_answered_and_the_file_that_was_there(
    command: list[object], ending: str, tmp_path: Path
) -> None:
    output, part = tmp_path / f"out.{ending}", tmp_path / f"out.{ending}.part"
    output.write_text("kept")
    with answering(ANSWER) as url:
        ended = run(*command, "--url", url, "--output", output, stdin=LINES)
    assert (ended.status, output.read_text()) == (1, "kept")
    assert f"what was done is in {part}; {output} was not written" in ended.stderr
    rows = pyarrow.parquet.read_table(part).num_rows if ending == "parquet" else len(part.read_text().splitlines())
    assert rows == (3 if ending == "csv" else 2)
    with answering(ANSWER) as url:
        assert [row["line"] for row in run(*command, "--url", url, stdin=LINES).rows] == [1, 2]


def test_a_command_that_does_nothing_leaves_the_file_and_one_that_works_replaces_it(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("total\n1\n")
    output.chmod(0o600)
    for arguments in (["numbers", "x"], ["zebra", "1"], ["numbers", "--file", output]):
        ended = run("step", *arguments, "--output", output)
        assert (ended.status, output.read_text(), len(list(tmp_path.iterdir()))) == (1, "total\n1\n", 1)
    assert f"--output {output} is the input; name another file" in ended.stderr
    (tmp_path / "link.csv").symlink_to(output)
    assert run("step", "numbers", "3", "--output", tmp_path / "link.csv").status == 0
    assert output.read_text().startswith("step,")
    assert ((tmp_path / "link.csv").is_symlink(), output.stat().st_mode & 0o777) == (True, 0o600)


def test_a_state_is_its_owner_s_alone(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("step", "numbers", "3", "--save-state", tmp_path / "state").status == 0
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
        (tmp_path / "state").chmod(0o644)


def test_a_file_of_columns_has_the_same_columns_for_series_with_times_and_without(tmp_path: Path) -> None:
    lines = [json.dumps(SERIES), json.dumps({"values": SERIES, "start": "2026-01-01", "freq": "D"})]
    arguments = ["forecast", "--format", "jsonl", "--horizon", 1, "--output", tmp_path / "out.csv"]
    assert run(*arguments, stdin="\n".join(lines)).status == 0
    head, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert head.startswith("line,step,timestamp,mean")
    assert [row.split(",")[:3] for row in rows] == [["1", "1", ""], ["2", "1", "2026-01-06T00:00:00"]]


@pytest.mark.parametrize("answer", [{}, [], {"results": []}])
def test_what_is_no_baton_service_is_one_line(answer: object) -> None:
    with answering(answer) as url:
        for command in (["sentiment"], ["models", url], ["bench", url], ["step", "numbers"]):
            options = ["--url", url] if url not in command else []
            ended = run(*command, *options, stdin="1")
            assert (ended.status, ended.stdout, len(ended.stderr.splitlines())) == (1, "", 1), ended


def test_a_full_disk_and_a_closed_stdin_are_one_line() -> None:
    for redirected, reason in (
        ("step numbers 3 > /dev/full", "No space left on device"),
        ("models > /dev/full", "No space left on device"),
        ("sentiment <&-", "give texts, a --file of them"),
        ("sentiment - <&-", "stdin is closed"),
        ("sentiment good >&-", "stdout is closed"),
    ):
        ended = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m service {redirected}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("baton: ")
        assert reason in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("columns", [40, 80])
def test_a_terminal_cuts_no_number_and_no_time(columns: int, tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text(
        "time,y\n" + "".join(f"{2000 + n // 12}-{n % 12 + 1:02}-01,{n % 12 + 1000000}\n" for n in range(48))
    )
    arguments = ["forecast", str(file), "--column", "y", "--time", "time", "--horizon", "3"]
    models = {**os.environ, "BATON_MODELS_DIR": str(ROOT / "models")}
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**models, "TERM": "xterm", "COLUMNS": str(columns)},
    ):
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(ours)
    table = re.sub(r"\x1b\[\d*m", "", shown.decode())  # without the bold of its head
    assert "\u2026" not in table
    assert all(f"2004-0{month}-01T00:00:00" in table for month in (1, 2, 3))
    head = next(line.split() for line in table.splitlines() if line.startswith("step"))
    assert head[:3] == ["step", "timestamp", "mean"]
    assert (len(head), head[-2:]) == (7, ["lower_80", "upper_80"])
    if columns == 80:
        assert all(len(line) <= columns for line in table[table.index("step ") :].splitlines())
