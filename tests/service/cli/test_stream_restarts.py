"""`baton stream` that ends, however it does, and goes on: no line is left out, and what comes again is bounded."""

from __future__ import annotations

import json
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from commands import Ended, run
from conftest import Server
from handlers import QuietHandler, handled_by
from line_streams import Streaming, piped, streaming

pytestmark = pytest.mark.usefixtures("command_settings")

AGAIN = 100  # lines that are shown again at most
BACKLOG = [[(place * 7) % 5 - 2.0, place % 3 - 1.0] for place in range(600)]
Fault = Literal["cut", "gateway", "hang"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "log"
    file.write_text("".join(f"{one},{other}\n" for one, other in BACKLOG))
    return file


def read_rows(stream: Streaming, count: int) -> list[dict[str, Any]]:
    assert stream.process.stdout is not None
    return [json.loads(stream.process.stdout.readline()) for _ in range(count)]


def go_on(log: Path, checkpoint: Path, *options: object, model: str = "numbers") -> Ended:
    ended = run("stream", model, "--file", log, "--checkpoint", checkpoint, *options)
    assert ended.status == 0, ended.stderr
    return ended


def test_a_stream_that_is_killed_in_a_backlog_shows_few_lines_again_and_leaves_none_out(
    log: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    whole = go_on(log, tmp_path / "whole.json", model="stepper").rows
    with streaming("stepper", "--file", log, "--checkpoint", checkpoint) as stream:
        shown = read_rows(stream, 250)
        stream.process.kill()
        stream.process.wait()
        assert stream.process.stdout is not None
        shown += [json.loads(line) for line in stream.process.stdout if line.endswith("\n")]
    rows = go_on(log, checkpoint, model="stepper").rows
    assert shown[-1]["step"] - AGAIN < rows[0]["step"] <= shown[-1]["step"] + 1
    known = {row["step"]: row for row in (*shown, *rows)}
    assert [known[step]["value"] for step in range(1, len(BACKLOG) + 1)] == BACKLOG
    for row in whole:
        assert known[row["step"]]["y"] == pytest.approx(row["y"], abs=1e-5)


def test_a_reader_that_leaves_a_backlog_leaves_a_checkpoint(log: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    log.write_text("0\n" * 20_000)  # more than a pipe holds
    with streaming("numbers", "--file", log, "--checkpoint", checkpoint) as stream:
        read_rows(stream, 3)
        assert stream.process.stdout is not None
        stream.process.stdout.close()
        assert stream.process.wait() == 0
    kept = json.loads(checkpoint.read_text())
    assert kept["step"] == kept["line"] < 20_000
    log.write_text("0\n" * (kept["line"] + 1))
    ended = go_on(log, checkpoint)
    assert [row["step"] for row in ended.rows] == [kept["step"] + 1]


def test_a_file_is_taken_from_its_line_on_also_behind_lines_that_were_no_steps(log: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    log.write_text("1\n\nx\n2\n")
    assert [row["step"] for row in go_on(log, checkpoint, "--bad", "skip").rows] == [1, 2]
    with log.open("a") as file:
        file.write("3\n4")
    ended = go_on(log, checkpoint)
    assert [(row["step"], row["total"]) for row in ended.rows] == [(3, [11.0]), (4, [26.0])]
    assert f"goes on from step 2, line 4; the checkpoint is {checkpoint}" in ended.stderr
    log.write_text("1\n")
    cut = run("stream", "numbers", "--file", log, "--checkpoint", checkpoint)
    assert (cut.status, f"{log} has 1 lines, and its checkpoint is behind line 6" in cut.stderr) == (1, True)


def test_a_file_of_columns_goes_on_without_its_header(tmp_path: Path) -> None:
    checkpoint, table = tmp_path / "checkpoint.json", tmp_path / "table"
    options = ["--format", "csv", "--column", "y", "--time", "day"]
    table.write_text("\ufeffy;day\n1;Monday\n", encoding="utf-8")
    assert [row["time"] for row in go_on(table, checkpoint, *options).rows] == ["Monday"]
    with table.open("a") as file:
        file.write('2;"Tuesday; late"\n')
    ended = go_on(table, checkpoint, *options)
    assert [(row["total"], row["time"]) for row in ended.rows] == [([4.0], "Tuesday; late")]
    again = piped("numbers", "--checkpoint", checkpoint, *options, lines=table.read_text(encoding="utf-8-sig"))
    assert (again.returncode, again.stdout) == (1, "")
    assert "the header again: what was taken before comes once more" in again.stderr


def test_a_file_is_followed_until_it_is_replaced(log: Path, tmp_path: Path) -> None:
    log.write_text("1\n")
    with streaming("numbers", "--file", log, "--follow", "--checkpoint", tmp_path / "checkpoint.json") as stream:
        (first,) = read_rows(stream, 1)
        with log.open("a") as file:
            file.write("2\n")
        (second,) = read_rows(stream, 1)
        assert (first["total"], second["total"]) == ([1.0], [4.0])
        log.rename(tmp_path / "log.1")
        _, err = stream.process.communicate()
    assert (stream.process.returncode, f"{log} was replaced or cut after line 2" in err) == (1, True)


@contextmanager
def faulty(service: Server, faults: Sequence[Fault]) -> Iterator[tuple[str, threading.Event]]:
    """Yield the URL of a proxy whose first steps fail with `faults`, and what is set when one hangs."""
    left, hangs, ended = list(faults), threading.Event(), threading.Event()

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = left.pop(0) if left and self.command == "POST" else None
            if fault == "hang":
                hangs.set()
                ended.wait()
            if fault in ("cut", "hang"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            headers = {"Content-Type": "application/json"}
            asked = urllib.request.Request(service.url + self.path, body or None, headers, method=self.command)
            with urllib.request.urlopen(asked) as answer:
                content = answer.read() if fault is None else b"<html>Bad Gateway</html>"
            self.send_response(200 if fault is None else 502)
            self.send_header("Content-Type", "application/json" if fault is None else "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do

    with handled_by(Handler) as url:
        try:
            yield url, hangs
        finally:
            ended.set()


def test_a_service_that_restarts_does_not_end_a_stream(command_server: Server, log: Path, tmp_path: Path) -> None:
    log.write_text("1\n2\n3\n4\n5\n")
    with faulty(command_server, ["cut", "gateway", "cut"]) as (url, _):
        ended = go_on(log, tmp_path / "checkpoint.json", "--url", url)
    assert [row["total"] for row in ended.rows] == [[1.0], [4.0], [11.0], [26.0], [57.0]]
    assert f"{url} does not answer (" in ended.stderr


def test_a_signal_ends_a_stream_whose_service_hangs(command_server: Server, log: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    log.write_text("1\n")
    go_on(log, checkpoint)
    kept = checkpoint.read_text()
    with (
        faulty(command_server, ["hang"]) as (url, hangs),
        streaming("numbers", "--checkpoint", checkpoint, "--url", url) as stream,
    ):
        assert stream.process.stdin is not None
        stream.process.stdin.write("1\n")
        assert hangs.wait(60)
        assert "ended before the last lines were answered" in stream.end(signal.SIGINT)
    assert checkpoint.read_text() == kept


def test_only_one_stream_has_a_checkpoint_whatever_it_is_called(log: Path, tmp_path: Path) -> None:
    checkpoint, other = tmp_path / "checkpoint.json", tmp_path / "links" / "other.json"
    other.parent.mkdir()
    other.symlink_to(checkpoint)
    log.write_text("1\n2\n")
    with streaming("numbers", "--checkpoint", checkpoint) as stream:
        stream.feed(1)
        refused = run("stream", "numbers", "--file", log, "--checkpoint", other)
        assert (refused.status, "give this one a --checkpoint of its own" in refused.stderr) == (1, True)
        stream.end()
    assert [row["step"] for row in go_on(log, other).rows] == [2]
    assert (other.is_symlink(), json.loads(checkpoint.read_text())["step"]) == (True, 2)


def test_nothing_is_made_for_a_model_that_is_not_there(log: Path, command_state: Path) -> None:
    before = set(command_state.rglob("*"))
    for name in ("zebra", "../zebra", "../../../zebra"):
        assert run("stream", name, "--file", log).status == 1
    assert not {file for file in command_state.parent.glob("**/*zebra*") if file not in before}
    assert not list(command_state.glob("streams"))


@pytest.mark.parametrize(
    ("options", "line", "says"),
    [
        ([], b"1_000", "'1_000' is no number"),
        ([], b"\xff", "not in UTF-8"),
        (["--format", "jsonl"], b"true", "True is no number"),
        (["--format", "csv", "--column", "y"], b"x,y\n1,2,3", "line 2: 3 cells, where the header has 2"),
        (["--format", "csv", "--column", "y"], b'x,y\n1,"2', "line 2: no CSV: unexpected end of data"),
        (["--format", "csv", "--column", "y"], b"y,y\n1,2", "the header has 2 columns 'y'; it has y, y"),
        (["--anomaly", "10"], b"", "--anomaly 10 would show all or nothing: scores are from 0 to 10"),
        (["--anomaly", "nan"], b"", "--anomaly nan would"),
        (["--likelihood", "1"], b"", "--likelihood 1 would show all or nothing: scores are from 0 to 1"),
        (["--likelihood", "0.5", "--anomaly", "3"], b"", "give one of --anomaly and --likelihood"),
        (["--follow", "--file", "-"], b"", "--file -: No such file"),
    ],
)
def test_what_is_no_step_is_refused_as_it_is_elsewhere(
    log: Path, tmp_path: Path, options: list[str], line: bytes, says: str
) -> None:
    log.write_bytes(line + b"\n")
    ended = run("stream", "numbers", "--file", log, "--checkpoint", tmp_path / "checkpoint.json", *options)
    assert (ended.status, ended.stdout) == (1, "")
    assert says in ended.stderr


def test_a_byte_order_mark_is_no_part_of_the_first_line(log: Path, tmp_path: Path) -> None:
    log.write_text("\ufeff1\n2\n", encoding="utf-8")
    assert [row["value"] for row in go_on(log, tmp_path / "checkpoint.json").rows] == [1.0, 2.0]


@pytest.mark.parametrize("change", [{"step": "x"}, {"state": 5}, {"line": None}, {"zebra": 1}, {"expected": 1}])
def test_a_checkpoint_with_a_member_of_another_type_is_none(log: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    log.write_text("1\n")
    go_on(log, checkpoint)
    checkpoint.write_text(json.dumps(json.loads(checkpoint.read_text()) | change))
    ended = run("stream", "numbers", "--file", log, "--checkpoint", checkpoint)
    assert (ended.status, f"{checkpoint} is no checkpoint ({next(iter(change))}" in ended.stderr) == (1, True)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".checkpoint.json.lock", "checkpoint.json", "log"]


def test_a_series_is_read_as_strictly() -> None:
    ended = run("forecast", "--horizon", 1, stdin="1 2 1_000\n")
    assert (ended.status, "stdin, line 1: '1_000' is no number" in ended.stderr) == (1, True)
