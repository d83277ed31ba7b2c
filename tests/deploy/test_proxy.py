"""HAProxy as deploy/ has it, but for the addresses: in front of scripted replicas, and of two real ones."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ANSWER_LIMIT_S, ROOT, Server, free_port
from programs import find_program

from baton_client import Client
from loadtests.traffic import Traffic

CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
V2 = ("/v2/models/stepper/infer", "/%762/models/stepper/infer", "/v2%2Fmodels/stepper/versions/1/infer")
ROWS = np.random.default_rng(5).normal(size=(1500, 2)).astype(np.float32)


def test_the_configuration_is_valid() -> None:
    checked = subprocess.run(
        [find_program("haproxy"), "-c", "-f", CONFIGURATION], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def placed(port: int, addresses: Sequence[tuple[str, int]], options: str, patience: str) -> str:
    """Return the configuration with this machine's addresses in the place of those that Docker's name server tells."""
    servers = "\n".join(f"    server replica{n} {host}:{at} {options}" for n, (host, at) in enumerate(addresses))
    text, binds = re.subn(r"^    bind :8000$", f"    bind 127.0.0.1:{port}", CONFIGURATION.read_text(), flags=re.M)
    text, templates = re.subn(r"^    server-template .*$", servers, text, flags=re.M)
    text, waits = re.subn(r"^    timeout server 30s$", f"    timeout server {patience}", text, flags=re.M)
    assert (binds, templates, waits) == (1, 2, 1)
    return text


@contextmanager
def proxied(
    addresses: Sequence[tuple[str, int]], folder: Path, options: str = "", patience: str = "30s"
) -> Iterator[str]:
    """Yield the URL of a HAProxy over replicas at `addresses`, with these options of a server more.

    `patience` is how long HAProxy waits for an answer.
    """
    port = free_port()
    configuration = folder / "haproxy.cfg"
    configuration.write_text(placed(port, addresses, options, patience))
    process = subprocess.Popen([find_program("haproxy"), "-db", "-f", configuration])
    try:
        while True:
            assert process.poll() is None, "haproxy has ended"
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


Answer = tuple[int, dict[str, str]]


class Replica:
    """A server that answers calls as `answer` says: None closes the connection instead."""

    def __init__(self, answer: Callable[[], Answer | None]) -> None:
        self.calls: Counter[str] = Counter()
        self.forwarded_for: list[str] = []
        self.ports: list[int] = []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replica.calls[self.path] += 1
                replica.forwarded_for.append(self.headers["X-Forwarded-For"])
                replica.ports.append(self.client_address[1])
                if (made := answer()) is None:
                    self.close_connection = True
                    return
                status, headers = made
                self.send_response(status)
                for name, value in {**headers, "Content-Length": "0"}.items():
                    self.send_header(name, value)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = ("127.0.0.1", self._server.server_port)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@contextmanager
def scripted(
    folder: Path, *answers: Callable[[], Answer | None], patience: str = "30s"
) -> Iterator[tuple[httpx.Client, list[Replica]]]:
    """Yield a client of HAProxy over one replica for each of `answers`, all of which count as ready."""
    replicas = [Replica(answer) for answer in answers]
    with ExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica.running())
        addresses = [replica.address for replica in replicas]
        url = stack.enter_context(proxied(addresses, folder, options="no-check", patience=patience))
        yield stack.enter_context(httpx.Client(base_url=url, timeout=ANSWER_LIMIT_S)), replicas


def fine() -> Answer:
    return 200, {}


def dropped() -> None:
    return None


def test_every_call_of_a_connection_goes_to_the_next_replica(tmp_path: Path) -> None:
    with scripted(tmp_path, fine, fine) as (client, replicas):
        for _ in range(10):
            assert client.post("/v1/step", content=b"{}").status_code == 200
        assert [replica.calls["/v1/step"] for replica in replicas] == [5, 5]
        assert set(replicas[0].forwarded_for) == {"127.0.0.1"}


def test_a_call_that_a_replica_drops_is_answered_by_the_next(tmp_path: Path) -> None:
    with scripted(tmp_path, dropped, fine) as (client, (broken, sound)):
        for _ in range(10):
            assert client.post("/v1/step", content=b"x" * 30_000).status_code == 200
        assert broken.calls["/v1/step"] == sound.calls["/v1/step"] == 10


@pytest.mark.parametrize("path", V2)
def test_what_may_be_a_step_of_a_sequence_reaches_one_replica_and_is_not_told_to_come_again(
    path: str, tmp_path: Path
) -> None:
    with scripted(tmp_path, dropped, fine) as (client, (broken, sound)):
        url = client.base_url.join(path)
        answers = [httpx.post(url, content=b"{}", timeout=ANSWER_LIMIT_S) for _ in range(6)]
    failed = [answer for answer in answers if answer.status_code != 200]
    assert len(failed) == broken.calls[path] > 0
    assert len(answers) - len(failed) == sound.calls[path] > 0
    for answer in failed:
        assert (answer.status_code, answer.headers.get("Retry-After")) == (502, None)
        assert answer.text == "The replica failed: whether it did this is not known.\n"


def test_a_connection_brings_no_more_than_one_call_to_v2(tmp_path: Path) -> None:
    """The next one could come to a replica that is closing it, and would be lost."""
    with scripted(tmp_path, fine) as (client, (replica,)):
        assert {client.post(V2[0], content=b"{}").status_code for _ in range(3)} == {200}
        assert len(set(replica.ports)) == 3


@pytest.mark.parametrize(
    ("path", "wait", "text"),
    [
        ("/v1/step", "1", "No answer in 30 s: send the same again.\n"),
        (V2[0], None, "No answer in 30 s: whether this was done is not known.\n"),
    ],
)
def test_a_call_that_takes_too_long_is_given_up_and_no_other_replica_begins_it(
    path: str, wait: str | None, text: str, tmp_path: Path
) -> None:
    given_up = threading.Event()

    def slow() -> Answer:
        given_up.wait()
        return fine()

    with scripted(tmp_path, slow, slow, slow, patience="200ms") as (client, replicas):
        answer = client.post(path, content=b"{}")
        begun = sum(replica.calls[path] for replica in replicas)
        given_up.set()
    assert (answer.status_code, answer.headers.get("Retry-After"), answer.text) == (504, wait, text)
    assert begun == 1


def test_a_call_that_one_replica_refuses_for_now_is_answered_by_the_next(tmp_path: Path) -> None:
    with scripted(tmp_path, lambda: (503, {"Retry-After": "7"}), fine) as (client, (draining, _)):
        assert {client.post("/v1/step", content=b"{}").status_code for _ in range(4)} == {200}
        assert draining.calls["/v1/step"] > 0


def test_a_call_too_large_to_be_kept_fails_with_its_replica_and_is_told_to_come_again(tmp_path: Path) -> None:
    with scripted(tmp_path, dropped, fine) as (client, _):
        url = client.base_url.join("/v1/step")
        answers = [httpx.post(url, content=b"x" * 200_000, timeout=ANSWER_LIMIT_S) for _ in range(4)]
        assert Counter(answer.status_code for answer in answers) == {200: 2, 502: 2}
        assert {answer.headers["Retry-After"] for answer in answers if answer.status_code == 502} == {"1"}


@pytest.mark.parametrize(("status", "wait"), [(429, {"Retry-After": "7"}), (503, {"Retry-After": "7"}), (504, {})])
def test_what_all_replicas_refuse_comes_as_they_say_it(status: int, wait: dict[str, str], tmp_path: Path) -> None:
    with scripted(tmp_path, lambda: (status, wait), lambda: (status, wait)) as (client, _):
        answer = client.post("/v1/step", content=b"{}")
        assert answer.status_code == status
        assert answer.headers.get("Retry-After") == wait.get("Retry-After")


def test_where_no_replica_listens_calls_are_told_to_come_again(tmp_path: Path) -> None:
    nobody = [("127.0.0.1", free_port()), ("127.0.0.1", free_port())]
    with proxied(nobody, tmp_path) as url:
        answer = httpx.post(f"{url}/v1/step", content=b"{}", timeout=ANSWER_LIMIT_S)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/%6detrics", "/metrics?x=1", "/metrics/"),
        *("/v2/repository/models/stepper/load", "/%762/repository%2Fmodels/stepper/unload"),
    ],
)
def test_metrics_and_orders_stay_inside(path: str, tmp_path: Path) -> None:
    with scripted(tmp_path, fine) as (client, (replica,)):
        assert client.post(path).status_code == 404
        assert not replica.calls


async def infer(url: str, until: asyncio.Event) -> Counter[tuple[int, str | None]]:
    """Send batches over `/v2` until `until` is set; return how often each status came, with its Retry-After.

    The status is 0 where HAProxy closed the connection without an answer.
    """
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a good film", "very bad"]}
    answers: Counter[tuple[int, str | None]] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_LIMIT_S) as client:
        while not until.is_set():
            try:
                answer = await client.post("/v2/models/sentiment/infer", json={"inputs": [tensor]})
                answers[answer.status_code, answer.headers.get("Retry-After")] += 1
            except httpx.RemoteProtocolError:
                answers[0, None] += 1
    return answers


@pytest.mark.anyio
async def test_no_call_fails_and_no_session_is_lost_while_replicas_are_killed_and_drain(
    replicas: tuple[Server, Server], tmp_path: Path
) -> None:
    """Over `/v2` a call may be lost with its replica, but nothing says that it can be sent again."""
    one, other = replicas
    until = asyncio.Event()
    with proxied([server.address for server in replicas], tmp_path) as url:
        with Client(url) as client:
            client.models()
        traffic = Traffic(url, model="stepper", output="y", rows=ROWS, texts=("a good film", "very bad"))
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.keep_up(until))
            inferring = group.create_task(infer(url, until))
            for replica, end in ((one, one.kill), (other, other.stop)):
                await traffic.wait_for(10, "1")
                await asyncio.to_thread(end)
                await traffic.wait_for(10, "1")
                await asyncio.to_thread(replica.start)
                while not await asyncio.to_thread(replica.metric, "baton_steps_total", "model", "stepper"):
                    await traffic.wait_for(1, "1")
            until.set()
    assert (traffic.tally.failures, traffic.tally.lost) == ([], [])
    assert min(traffic.tally.steps, traffic.tally.frames, traffic.tally.batches) > 0
    assert inferring.result()[200, None] > 0
    assert set(inferring.result()) <= {(200, None), (502, None), (0, None)}
