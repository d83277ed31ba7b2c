"""The load test, run as its users run it: against the real service, and against services that answer wrongly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import answers
import pytest
from conftest import ROOT, Server

from loadtests.options import OPTIONS

ANY_SPEED = [word for kind in ("sentiment", "forecast", "stream") for word in (f"--{kind}-p95-ms", "60000")]
SHORT = ["--users", "8", "--spawn-rate", "100", "--run-time", "120s", "--requests", "20", "--think-time", "0.01"]
LINE = re.compile(r"^(\w+): (\d+) answered, (\d+) failed, (\d+) overloaded, (\d+) deadline", re.M)
SESSIONS = re.compile(r"^sessions: (\d+) begun, (\d+) lost; (\d+) steps taken, (\d+) retries compared", re.M)
KINDS = {"sentiment", "forecast", "stream"}
LIMIT_S = 180
ONE_PROCESS = "sessions are counted in one process: run without --master, --worker and --processes"

Reply = tuple[int, dict[str, str], dict[str, Any]]


def run_load(results: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("BATON_", "LOADTEST_", "LOCUST_"))}
    return subprocess.run(
        [sys.executable, "-m", "loadtests.run", "--results", str(results), *options],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def counts(run: subprocess.CompletedProcess[str]) -> dict[str, list[int]]:
    """Return answered, failed, overloaded and deadline for each kind of user."""
    return {kind: [int(number) for number in numbers] for kind, *numbers in LINE.findall(run.stdout)}


@contextmanager
def fake_service(reply: Callable[[str, dict[str, Any]], Reply]) -> Iterator[str]:
    """Serve `reply(path, body)` and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body leave together

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, answer = reply(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep the test's output to the test's own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(ROOT / "models", tmp_path_factory.mktemp("state"))
    yield server
    server.stop()


def test_a_run_starts_the_service_itself_checks_all_kinds_of_answers_and_leaves_reports(tmp_path: Path) -> None:
    run = run_load(tmp_path, *SHORT, *ANY_SPEED)
    assert run.returncode == 0, run.stdout + run.stderr
    assert counts(run).keys() == KINDS
    assert all(answered >= 20 and rest == [0, 0, 0] for answered, *rest in counts(run).values())
    begun, lost, steps, _ = map(int, SESSIONS.findall(run.stdout)[0])
    assert (begun, lost) == (4, 0)
    assert steps > 20
    assert "payloads generated" in run.stdout
    assert "/v1/step" in (tmp_path / "loadtest.html").read_text()
    assert (tmp_path / "loadtest_stats.csv").is_file()
    assert "drained" in (tmp_path / "loadtest.log").read_text()


def test_real_data_are_sent_where_they_are(committed: Server, data_dir: Path, tmp_path: Path) -> None:
    run = run_load(tmp_path, "--host", committed.url or "", *SHORT, *ANY_SPEED, BATON_DATA_DIR=str(data_dir))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "payloads real: 1821 sentences of SST-2, 359 series of M4 weekly" in run.stdout


def test_a_threshold_that_is_not_kept_fails_the_run_and_is_named(committed: Server, tmp_path: Path) -> None:
    options = [*SHORT, *ANY_SPEED, "--forecast-p95-ms", "0.001"]
    run = run_load(tmp_path, "--host", committed.url or "", *options, LOADTEST_MIN_REQUESTS="100000")
    assert run.returncode == 1
    failed = [re.sub(r" \d+ ", " N ", line) for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == [
        "FAILED sentiment: N requests answered, N wanted (--min-requests)",
        "FAILED forecast: p95 N ms, at most 0.001 wanted (--forecast-p95-ms)",
        "FAILED forecast: N requests answered, N wanted (--min-requests)",
        "FAILED stream: N requests answered, N wanted (--min-requests)",
    ]


def test_an_overloaded_service_refuses_without_failures_or_lost_sessions(tmp_path: Path) -> None:
    options = ["--overload", "--users", "60", "--run-time", "7s", *ANY_SPEED]
    run = run_load(tmp_path, *options, BATON_QUEUE_ROWS="8", BATON_MAX_ITEMS="8")
    assert run.returncode == 0, run.stdout + run.stderr
    assert sum(overloaded for _, _, overloaded, _ in counts(run).values()) > 0
    assert [failed for _, failed, _, _ in counts(run).values()] == [0, 0, 0]
    assert SESSIONS.findall(run.stdout)[0][1] == "0"
    assert [int(users) for users in re.findall(r"Shape test updating to (\d+) users", run.stderr)] == [
        *(6, 15, 30, 60, 30, 15, 6)
    ]


def test_an_overload_that_overloads_nothing_is_said_to_be_none(tmp_path: Path) -> None:
    with fake_service(lambda path, body: (200, {}, answers.right(path, body))) as host:
        run = run_load(tmp_path, "--host", host, "--overload", *SHORT, *ANY_SPEED, "--users", "100")
    assert run.returncode == 1
    assert "FAILED all: 0 requests refused, 1 wanted" in run.stdout


def wrong_label(path: str, body: dict[str, Any]) -> Reply:
    answer = answers.right(path, body)
    if path == "/v1/sentiment":
        answer["results"][0]["label"] = "negative"
    return 200, {}, answer


def repeated_step(path: str, body: dict[str, Any]) -> Reply:
    answer = answers.right(path, body)
    if path == "/v1/step" and "state" in body["items"][0]:
        answer["results"][0]["step"] = int(body["items"][0]["state"].partition("-")[0])
    return 200, {}, answer


def refusal_without_a_time(path: str, body: dict[str, Any]) -> Reply:
    if path == "/v1/forecast":
        return 429, {}, {"error": {"code": "overloaded", "message": "full"}}
    return 200, {}, answers.right(path, body)


def unreadable_body(path: str, body: dict[str, Any]) -> Reply:
    claim = {"content-encoding": "gzip"} if path == "/v1/forecast" else {}
    return 200, claim, answers.right(path, body)


def refused_token(path: str, body: dict[str, Any]) -> Reply:
    if path == "/v1/step" and "state" in body["items"][0]:
        return 422, {}, {"error": {"code": "state_invalid", "message": "this state cannot be used"}}
    return 200, {}, answers.right(path, body)


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        (wrong_label, "sentiment", "the polarity is not the score's"),
        (repeated_step, "stream", "the step counter has not risen by the steps sent"),
        (refusal_without_a_time, "forecast", "429 without Retry-After in whole seconds"),
        (unreadable_body, "forecast", "while decompressing data"),
        (refused_token, "stream", "422 state_invalid: a token of the service was refused"),
    ],
)
def test_a_wrong_answer_fails_the_run_with_its_reason(
    reply: Callable[[str, dict[str, Any]], Reply], kind: str, reason: str, tmp_path: Path
) -> None:
    with fake_service(reply) as host:
        run = run_load(tmp_path, "--host", host, *SHORT, *ANY_SPEED)
    assert run.returncode == 1
    assert reason in run.stdout + run.stderr
    assert re.search(rf"^FAILED {kind}: \d+ of \d+ requests failed \(--max-failures\)$", run.stdout, re.M)
    assert {name for name, (_, failed, _, _) in counts(run).items() if failed} == {kind}
    assert ("sessions lost" in run.stdout) == (reply is refused_token)


def test_no_service_at_all_fails_the_run(tmp_path: Path) -> None:
    with fake_service(lambda path, body: (200, {}, {})) as host:
        pass
    run = run_load(tmp_path, "--host", host, *SHORT, *ANY_SPEED)
    assert run.returncode == 1
    assert "Connection refused" in run.stdout + run.stderr
    assert {kind: numbers[0] for kind, numbers in counts(run).items()} == dict.fromkeys(KINDS, 0)


def test_a_refused_session_waits_as_told_and_goes_on_from_its_old_token(tmp_path: Path) -> None:
    refused_at: dict[str, float] = {}
    waits: list[float] = []

    def refuse_each_token_once(path: str, body: dict[str, Any]) -> Reply:
        token = body["items"][0].get("state", "") if path == "/v1/step" else ""
        if token and token not in refused_at:
            refused_at[token] = time.monotonic()
            if len(refused_at) % 2:
                return 429, {"retry-after": "1"}, {"error": {"code": "overloaded", "message": "full"}}
            return 504, {}, {"error": {"code": "deadline", "message": "not run within the deadline"}}
        if token:
            waits.append(time.monotonic() - refused_at[token])
        return 200, {}, answers.right(path, body)

    options = ["--sentiment-weight", "0", "--forecast-weight", "0", "--users", "1", "--requests", "12"]
    with fake_service(refuse_each_token_once) as host:
        run = run_load(tmp_path, "--host", host, *options, "--max-refused", "1", *ANY_SPEED)
    assert run.returncode == 0, run.stdout + run.stderr
    ((answered, failed, overloaded, deadline),) = counts(run).values()
    assert answered + overloaded + deadline >= 12
    assert (failed, SESSIONS.findall(run.stdout)[0][:2]) == (0, ("1", "0"))
    assert min(overloaded, deadline) >= 1
    assert waits[0] >= 1


def test_refusals_fail_a_run_that_is_no_overload(tmp_path: Path) -> None:
    def refuse_forecasts(path: str, body: dict[str, Any]) -> Reply:
        if path == "/v1/forecast":
            return 429, {"retry-after": "0"}, {"error": {"code": "overloaded", "message": "full"}}
        return 200, {}, answers.right(path, body)

    with fake_service(refuse_forecasts) as host:
        run = run_load(tmp_path, "--host", host, *SHORT, *ANY_SPEED)
    assert run.returncode == 1
    assert re.search(r"^FAILED forecast: (\d+) of \1 requests were refused \(--max-refused\)$", run.stdout, re.M)
    assert counts(run)["forecast"][1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--think-time", "-1"], "argument --think-time: '-1' is no finite number of at least 0"),
        ([f"--{kind}-weight=0" for kind in sorted(KINDS)], "no user has a weight above 0"),
        (["--processes", "2"], ONE_PROCESS),
        (["--master", "--master-bind-port", "0"], ONE_PROCESS),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_the_reason(
    options: list[str], message: str, tmp_path: Path
) -> None:
    run = run_load(tmp_path, "--host", "http://127.0.0.1:9", *options)
    assert run.returncode != 0
    assert message in run.stderr


def test_a_data_folder_without_the_data_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = run_load(tmp_path, "--host", "http://127.0.0.1:9", BATON_DATA_DIR=str(tmp_path))
    assert run.returncode != 0
    assert f"BATON_DATA_DIR is {tmp_path}, which holds no sst2/test.tsv" in run.stderr


def test_a_host_that_is_no_address_is_refused_with_the_reason(tmp_path: Path) -> None:
    run = run_load(tmp_path, "--host", "localhost:8000")
    assert run.returncode == 2
    assert "--host localhost:8000 is no address, such as http://localhost:8000" in run.stderr


def test_the_options_page_is_in_step_with_the_code() -> None:
    rows = [
        f"| `{option.flag}` | {option.default:g} | {'' if option.overload is None else f'{option.overload:g}'} "
        f"| `{option.variable}` | {option.what} |".replace("|  |", "|  |")
        for option in OPTIONS
    ]
    page = (ROOT / "docs" / "loadtests.md").read_text().splitlines()
    start = page.index("| option | default | overload | variable | what |") + 2
    assert page[start : start + len(rows) + 1] == [*rows, ""]
