"""Every limit on what a client sends is told twice: in /v1/info, and by whatever is refused for it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, ServerFactory
from streams import Stream, eventually
from websockets.exceptions import InvalidStatus
from wire import GET, LAST_GET, drip, exchange, head, statuses

LIMITS = {
    "timeout_ms": 60_000,
    "max_head_bytes": 2048,
    "max_header_fields": 20,
    "max_body_bytes": 4096,
    "max_items": 3,
    "max_text_chars": 50,
    "max_series_steps": 10,
    "max_steps": 5,
    "max_streams": 2,
    "max_frame_bytes": 1024,
}


@pytest.fixture(scope="module")
def narrow(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with small limits."""
    settings = {f"BATON_{name.upper()}": str(value) for name, value in LIMITS.items()}
    running = Server(tiny_models, tmp_path_factory.mktemp("narrow"), **settings)
    yield running
    running.stop()


def test_each_is_in_the_information(narrow: Server) -> None:
    info = narrow.client.get("/v1/info").json()
    assert {name: info["limits"][name] for name in LIMITS} == LIMITS
    assert info["horizons"] == {"forecast": 4}


@pytest.mark.parametrize(
    ("path", "body", "code", "limit"),
    [
        ("/v1/sentiment", {"inputs": ["a" * 5000]}, "body_too_large", LIMITS["max_body_bytes"]),
        ("/v1/sentiment", {"inputs": ["a"] * 4}, "batch_too_large", LIMITS["max_items"]),
        ("/v1/sentiment", {"inputs": ["a" * 51]}, "item_too_large", LIMITS["max_text_chars"]),
        ("/v1/sentiment", {"inputs": ["a"], "timeout_ms": 60_001}, "invalid_request", LIMITS["timeout_ms"]),
        (
            "/v1/forecast",
            {"horizon": 1, "series": [{"values": [1] * 11}]},
            "item_too_large",
            LIMITS["max_series_steps"],
        ),
        ("/v1/forecast", {"horizon": 5, "series": [{"values": [1] * 9}]}, "horizon_too_long", 4),
        ("/v1/step", {"model": "numbers", "items": [{"values": [1] * 6}]}, "item_too_large", LIMITS["max_steps"]),
    ],
)
def test_a_request_that_is_refused_has_the_limit(narrow: Server, path: str, body: Any, code: str, limit: int) -> None:
    error = narrow.post(path, body).json()["error"]
    assert (error["code"], error["limit"]) == (code, limit)


@pytest.mark.parametrize(
    ("sent", "status", "name"),
    [
        (head(b"GET /" + b"a" * 2048 + b" HTTP/1.1"), 414, "max_head_bytes"),
        (head(b"GET /" + b"a" * 3000), 414, "max_head_bytes"),
        (head(b"GET /healthz HTTP/1.1", b"x: " + b"a" * 2048), 431, "max_head_bytes"),
        (head(b"GET /healthz HTTP/1.1", *[b"x: " + b"a" * 1100] * 2), 431, "max_head_bytes"),
        (head(b"GET /healthz HTTP/1.1", *[b"x:"] * 20), 431, "max_header_fields"),
        (head(b"GET /healthz HTTP/1.1", *[b"x:"] * 20)[:-2], 431, "max_header_fields"),
    ],
)
def test_a_head_that_is_refused_is_told_the_limit_and_its_name(
    narrow: Server, sent: bytes, status: int, name: str
) -> None:
    answer = exchange(narrow, sent)
    assert statuses(answer) == [status]
    assert answer.endswith(b"(%b)" % name.encode())
    assert re.search(rb"\b%d\b" % LIMITS[name], answer.partition(b"\r\n\r\n")[2])


def test_a_head_in_small_parts_is_as_long_as_in_one(narrow: Server) -> None:
    fits = head(b"GET /healthz HTTP/1.1", b"x: " + b"a" * 1900)
    for size in (1, 100, len(fits)):
        with socket.create_connection(narrow.address, timeout=30) as connection:
            for start in range(0, len(fits), size):
                connection.sendall(fits[start : start + size])
            assert statuses(connection.makefile("rb").read()) == [200]
    assert statuses(drip(narrow, b"GET /healthz HTTP/1.1\r\nx: ", b"a" * 700)) == [431]
    assert statuses(drip(narrow, b"GET /", b"a" * 700)) == [414]


def test_many_heads_in_one_packet_are_not_one(narrow: Server) -> None:
    assert statuses(exchange(narrow, GET * 1000 + LAST_GET)) == [200] * 1001


def test_a_stream_that_is_refused_has_the_limit(narrow: Server) -> None:
    with Stream(narrow) as stream:
        stream.connection.send("x" * 1025)
        stream.rest()
        closed = stream.connection.protocol.close_rcvd
        assert closed is not None
        assert (closed.code, closed.reason) == (1009, "more than 1024 bytes")
    with Stream(narrow, model="numbers") as stream:
        error = stream.ask(values=[1] * 6)["error"]
        assert (error["code"], error["limit"]) == ("item_too_large", LIMITS["max_steps"])


def test_streams_past_the_most_are_refused_with_the_limit(narrow: Server) -> None:
    with ExitStack() as opened:
        for _ in range(LIMITS["max_streams"]):
            opened.enter_context(Stream(narrow))
        with pytest.raises(InvalidStatus) as refused, Stream(narrow):
            pass
    assert refused.value.response.status_code == 429
    assert b'"limit":2' in refused.value.response.body


def test_connections_of_an_address_past_the_most_are_refused_until_one_ends(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """Streams count, too; another address has as many of its own."""
    limits = {"BATON_MAX_CONNECTIONS": "2", "BATON_TIMEOUT_MS": "3000"}
    server = start_server(tiny_models, tmp_path, **limits)
    assert server.client.get("/v1/info").json()["limits"]["max_connections"] == 2  # and it keeps its connection
    with Stream(server):
        for sent, status in ((GET, 429), (b"", 408)):  # who says nothing does not wait for the usual time
            answer = exchange(server, sent)
            assert statuses(answer) == [status]
            assert (b"\r\nretry-after: 1\r\n" in answer) is (status == 429)
            assert answer.endswith((b"more than 2 connections from this address (max_connections)", b"(timeout_ms)"))
        with socket.create_connection(server.address, timeout=30, source_address=("127.0.0.2", 0)) as other:
            other.sendall(LAST_GET)
            assert statuses(other.makefile("rb").read()) == [200]
    eventually(lambda: statuses(exchange(server, LAST_GET)) == [200])  # the end of the stream arrives in its own time
