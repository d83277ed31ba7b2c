"""What the client tries again, when and where: against a service that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from clocks import stopped_clock
from conftest import free_port

from baton_client import ApiError, AsyncClient, Client, ProtocolError, Unreachable

MODELS = {"models": [{"name": "one"}]}


class Script(ThreadingHTTPServer):
    """Answers requests from a list of (status, headers, body), the last again and again; None closes unanswered."""

    def __init__(self, *answers: tuple[int, dict[str, str], str] | None) -> None:
        script = self
        self.answers, self.times = list(answers), []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                script.times.append(time.monotonic())
                answer = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
                self.close_connection = True
                if answer is not None:
                    status, headers, body = answer
                    self.send_response(status)
                    for name, value in {**headers, "content-length": str(len(body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body.encode())

            def log_message(self, *message: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Script:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *stopped: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def refusal(status: int, code: str, **members: object) -> tuple[int, dict[str, str], str]:
    return status, {}, json.dumps({"error": {"code": code, "message": "not now", **members}})


GOOD = (200, {}, json.dumps(MODELS))


@pytest.mark.parametrize(
    "trouble",
    [
        refusal(429, "overloaded", retry_after_ms=200),
        refusal(503, "draining", retry_after_ms=200),
        refusal(504, "deadline", retry_after_ms=200),
        (502, {"retry-after": "0.2"}, "<html>Bad Gateway</html>"),
    ],
    ids=["429", "503", "504", "502 of a proxy"],
)
def test_what_passes_is_tried_again_no_earlier_than_it_says(trouble: tuple[int, dict[str, str], str]) -> None:
    with Script(trouble, trouble, GOOD) as script, Client(script.url) as client:
        assert client.models() == MODELS["models"]
    first, second, third = script.times
    assert second - first >= 0.2
    assert third - second >= 0.2


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 413, 422, 500])
def test_what_does_not_pass_is_not_tried_again(status: int) -> None:
    with Script(refusal(status, "no"), GOOD) as script, Client(script.url) as client:
        with pytest.raises(ApiError) as refused:
            client.models()
        assert refused.value.status == status
    assert len(script.times) == 1


def test_a_connection_that_breaks_is_tried_again() -> None:
    with Script(None, None, GOOD) as script, Client(script.url) as client:
        assert client.models() == MODELS["models"]


def test_the_next_replica_is_taken_and_kept() -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with Script(GOOD) as script, Client([dead, script.url + "/"]) as client:
        for _ in range(3):
            assert client.models() == MODELS["models"]
    assert len(script.times) == 3


@pytest.mark.anyio
async def test_a_replica_that_is_silent_is_left() -> None:
    with stopped_clock() as clock, Script(GOOD) as script:

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            while not reader.at_eof():  # until it is left
                clock.go_on(0.01)
                await asyncio.sleep(0)
            writer.close()

        async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
            urls = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", script.url]
            async with AsyncClient(urls, timeout=3) as client:
                assert await client.models() == MODELS["models"]


def test_it_gives_up_when_the_time_is_over_with_the_last_error() -> None:
    with Script(refusal(429, "overloaded", retry_after_ms=60_000)) as script, Client(script.url) as client:
        with pytest.raises(ApiError) as refused:
            client.models()
        assert (refused.value.code, refused.value.retry_after) == ("overloaded", 60)
    assert len(script.times) == 1
    dead = f"http://127.0.0.1:{free_port()}"
    with Client(dead, timeout=0.3) as client, pytest.raises(Unreachable, match=dead):
        client.models()


def test_an_answer_that_is_not_the_service_s_is_said_to_be_none() -> None:
    page = (200, {}, "<html>hello</html>")
    with Script(page) as script, Client(script.url) as client, pytest.raises(ProtocolError, match="hello"):
        client.models()
