"""The Python client's calls: typed results, errors, retries, replicas."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from clocks import stopped_clock
from conftest import ROOT, Server, ServerFactory, free_port

from baton_client import NEW, ApiError, AsyncClient, Client, ProtocolError, StepItem, Unreachable
from baton_client.errors import read_refusal

CLOSE = 1e-5
ROWS = np.random.default_rng(11).normal(size=(12, 2)).astype(np.float32)
MODELS = {"models": [{"name": "one"}]}
SERVER_PARTS = (
    *("service", "training", "torch", "onnxruntime", "fastapi", "starlette", "uvicorn", "pydantic", "tokenizers"),
    "cryptography",
)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    assert server.url is not None
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def strict(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that asks for a key, and closes streams that say nothing for a second."""
    settings = {"BATON_API_KEYS": '{"tenant": "secret-key"}', "BATON_STREAM_IDLE_S": "1"}
    running = Server(tiny_models, tmp_path_factory.mktemp("strict"), **settings)
    yield running
    running.stop()


def test_importing_the_client_loads_no_part_of_the_server() -> None:
    script = f"import sys, baton_client; print([name for name in {SERVER_PARTS} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


# -- results ---------------------------------------------------------------------------------------------------------


def test_sentiment_labels_texts(client: Client) -> None:
    batch = client.sentiment(["a good film", {"id": "b", "text": "not good"}], scores="all")
    assert [result.id for result in batch] == [None, "b"]
    assert set(batch[0].scores or {}) == {"negative", "positive"}
    assert batch[0].score == max((batch[0].scores or {}).values())
    assert (batch.model, batch.version, batch.usage["rows"], batch.errors) == ("sentiment", "1", 2, {})


def test_forecasts_are_arrays_and_nan_is_a_missing_value(client: Client) -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0])
    batch = client.forecast([values, {"id": "f", "values": [1, 2, 3], "start": "2024-01-01", "freq": "D"}], 2)
    with pytest.raises(ApiError) as missing:
        batch[0]
    assert (missing.value.code, missing.value.status) == ("missing_values", 422)
    assert batch[1].mean.shape == (2,)
    assert sorted(batch[1].quantiles) == [0.1, 0.5, 0.9]
    assert (batch[1].id, len(batch[1].timestamps or [])) == ("f", 2)
    assert client.forecast([values], 2, missing="linear")[0].warnings


def test_a_failed_item_raises_where_it_is_read_and_its_neighbours_stay(client: Client) -> None:
    batch = client.step_many("stepper", [StepItem(ROWS[:1], id="a"), StepItem([[1, 2, 3]]), StepItem(ROWS[:1])])
    assert len(batch) == 3
    assert list(batch.errors) == [1]
    assert (batch.errors[1].code, batch.errors[1].field) == ("ragged_inputs", "items[1].inputs[0]")
    np.testing.assert_array_equal(batch[0].outputs["y"], batch[2].outputs["y"])
    with pytest.raises(ApiError, match="ragged_inputs"):
        list(batch)
    with pytest.raises(ApiError, match="ragged_inputs"):
        batch[:2]


def test_where_every_item_failed_they_are_told_one_by_one(client: Client) -> None:
    batch = client.step_many("stepper", [StepItem([[1.0]]), StepItem([[np.nan, 1.0]])])
    assert [error.code for error in batch.errors.values()] == ["ragged_inputs", "not_finite"]


def test_steps_carry_the_state(client: Client) -> None:
    every = client.step("stepper", ROWS, returns="all")
    assert (every.step, every.outputs["y"].shape) == (12, (12, 3))
    assert every.expires_at > datetime.now(UTC)
    state, made = NEW, []
    for row in ROWS:
        result = client.step("stepper", row[None], state=state)
        state = result.state
        made.append(result.outputs["y"])
    np.testing.assert_allclose(made, every.outputs["y"], atol=CLOSE)
    assert client.step("reader", "a good film").tokens == ["a", "good", "film"]
    assert client.step("numbers", [1.0, 2.0]).step == 2


def test_a_lost_token_begins_no_session(client: Client) -> None:
    with pytest.raises(ValueError, match="NEW"):
        client.step("stepper", ROWS, state=None)
    with pytest.raises(ApiError, match="state_invalid"):
        client.step("stepper", ROWS, state="")


@pytest.mark.parametrize("inputs", [1.0, np.zeros((2, 2, 2))])
def test_inputs_of_an_impossible_shape_are_refused_here(client: Client, inputs: object) -> None:
    with pytest.raises(ValueError, match="give k rows"):
        client.step("stepper", inputs)


def test_models_and_limits_can_be_read(client: Client) -> None:
    assert "stepper" in [model["name"] for model in client.models()]
    assert client.info()["limits"]["max_items"] == 1024


@pytest.mark.anyio
async def test_the_blocking_client_works_where_a_loop_runs(client: Client, server: Server) -> None:
    assert server.url is not None
    async with AsyncClient(server.url) as other:
        one, two = client.step("stepper", ROWS), await other.step("stepper", ROWS)
    np.testing.assert_array_equal(one.outputs["y"], two.outputs["y"])


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_refusal_carries_what_the_service_says(client: Client) -> None:
    with pytest.raises(ApiError) as refused:
        client.sentiment(["a"] * 1025)
    error = refused.value
    assert (error.code, error.status, error.field, error.limit) == ("batch_too_large", 413, "inputs", 1024)
    assert error.request_id
    assert error.retry_after is None
    with pytest.raises(ApiError, match="skores"):
        client.sentiment(["a"], skores="all")


def test_an_api_key_goes_with_calls_and_streams(strict: Server) -> None:
    assert strict.url is not None
    with Client(strict.url) as client:
        with pytest.raises(ApiError, match="unauthorized"):
            client.models()
        with pytest.raises(ApiError, match="unauthorized"), client.stream("stepper"):
            pass
    with Client(strict.url, api_key="secret-key") as client, client.stream("stepper") as stream:
        assert stream.step(ROWS).step == client.step("stepper", ROWS).step


@pytest.mark.parametrize("urls", [[], "localhost:8000", ["http://a", "b"]])
def test_an_impossible_url_is_refused(urls: list[str] | str) -> None:
    with pytest.raises(ValueError, match="http://"):
        Client(urls)


# -- retries ---------------------------------------------------------------------------------------------------------


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


def test_retry_after_is_read_in_each_of_its_forms() -> None:
    def asked(value: str, **members: object) -> float | None:
        body = json.dumps({"error": {"code": "draining", "message": "", **members}}).encode()
        return read_refusal(503, {"retry-after": value}, body).retry_after

    assert asked("3") == 3
    assert asked("3", retry_after_ms=2500) == 2.5
    assert asked("soon") is None
    until = asked(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert until == pytest.approx(99, abs=2)
    assert asked("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_a_stream_waits_for_its_turn_where_too_many_are_open(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_STREAMS="1")
    assert server.url is not None
    with Client(server.url) as client:
        first = client.stream("stepper").__enter__()
        closing = threading.Thread(target=lambda: (server.lines_since(0, until="429"), first.close()))
        closing.start()
        with client.stream("stepper") as second:
            assert second.step(ROWS).step == 12
        closing.join()


def test_a_stream_that_was_closed_for_idleness_goes_on(strict: Server) -> None:
    assert strict.url is not None
    with Client(strict.url, api_key="secret-key") as client, client.stream("stepper") as stream:
        start = len(strict.lines)
        stream.step(ROWS[:5])
        strict.lines_since(start, until="/v1/stream 1001")
        made = stream.step(ROWS[5:])
        assert made.step == 12
        assert made.outputs["y"] == pytest.approx(client.step("stepper", ROWS).outputs["y"], abs=CLOSE)
