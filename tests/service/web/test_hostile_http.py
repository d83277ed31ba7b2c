"""Requests that no client of good will sends: refused as RFC 9112 has it, and the next client is answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Server
from streams import Stream
from wire import CHUNKED, GET, LAST_GET, chunk, drip, exchange, head, post, post_chunks, statuses

BODY = b'{"inputs": ["good"]}'
END = b"0\r\n\r\n"
LINE = b"POST /v1/sentiment HTTP/1.1"
TYPED = b"content-type: application/json"
H2C = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__")


@pytest.fixture(scope="module")
def impatient(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that waits half a second."""
    running = Server(tiny_models, tmp_path_factory.mktemp("impatient"), BATON_TIMEOUT_MS="500")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def next_client_is_answered(server: Server) -> Iterator[None]:
    before = server.mark()
    yield
    assert server.post("/v1/sentiment", {"inputs": ["good"]}).status_code == 200
    after = server.mark()
    assert not [line for line in server.lines[before:after] if "Traceback" in line or "ERROR" in line]


def both(first: bytes, second: bytes, body: bytes) -> bytes:
    return head(LINE, TYPED, first, second) + body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # two ends of one body, of which a proxy might believe the other
        (both(b"content-length: 5", CHUNKED.strip(), END + GET), 400),
        (both(CHUNKED.strip(), b"content-length: 5", END + GET), 400),
        (both(b"content-length: 20", b"content-length: 5", BODY), 400),
        (both(b"content-length: 20", b"content-length: 20", BODY), 400),
        (head(LINE, TYPED, b"content-length: 20, 20") + BODY, 400),
        (head(LINE, TYPED, b"content-length: +20") + BODY, 400),
        (head(LINE, TYPED, b"content-length: 0x14") + BODY, 400),
        (head(LINE, TYPED, b"content-length: -1") + BODY, 400),
        (head(LINE, TYPED, b"content-length: 9" + b"9" * 30) + BODY, 400),
        (head(LINE, TYPED, b"content-length:") + BODY, 400),
        # transfer codings that are none, or not of this server
        (head(LINE, TYPED, b"transfer-encoding: xchunked") + chunk(BODY) + END, 501),
        (head(LINE, TYPED, b"transfer-encoding: gzip, chunked") + chunk(BODY) + END, 501),
        (both(b"transfer-encoding: identity", CHUNKED.strip(), chunk(BODY) + END), 501),
        (head(LINE, TYPED, b"transfer-encoding: chunked, identity") + chunk(BODY) + END, 400),
        (head(LINE, TYPED, b"transfer-encoding: chunked, chunked") + chunk(BODY) + END, 400),
        (head(LINE, TYPED, b"transfer-encoding: \x0bchunked") + chunk(BODY) + END, 400),
        (head(LINE, TYPED, b"transfer-encoding:\r\n chunked") + chunk(BODY) + END, 400),
        (head(b"POST /v1/sentiment HTTP/1.0", TYPED, CHUNKED.strip()) + chunk(BODY) + END, 400),
        # lines that end, or begin, where not all agree
        (head(b"GET /healthz HTTP/1.1", b"x-a: b\r\n folded"), 400),
        (head(b"GET /healthz HTTP/1.1", b"x-a : b"), 400),
        (head(LINE, TYPED, b"content-length : 20") + BODY, 400),
        (head(b"GET /healthz HTTP/1.1", b"x-a: b\nx-c: d"), 400),
        (head(b"GET /healthz HTTP/1.1", b"x-a: b\rx-c: d"), 400),
        (GET.replace(b"\r", b""), 400),
        (head(b"GET /healthz HTTP/1.1", b"x-a: b\0c"), 400),
        (head(b"GET /healthz HTTP/1.1", b"x\0a: b"), 400),
        (head(b"GET /healthz\0 HTTP/1.1"), 400),
        # chunks
        (post_chunks(b"14\n" + BODY + b"\n0\n\n"), 400),
        (post_chunks(b"14;a\n" + BODY + b"\r\n" + END), 400),
        (post_chunks(b"0x14\r\n" + BODY + b"\r\n" + END), 400),
        (post_chunks(b"14 \r\n" + BODY + b"\r\n" + END), 400),
        (post_chunks(b"14\r\n" + BODY + END), 400),
        (post_chunks(b"f" * 17 + b"\r\n" + BODY), 400),
        (post_chunks(chunk(BODY) + b"0\r\ncontent-length: 5\r\n\r\n" + GET), 400),
        (post_chunks(chunk(BODY, b";name=value") + END), 200),
        (post_chunks(chunk(BODY) + b"0\r\ncontent-encoding: gzip\r\n\r\n"), 200),
        (post_chunks(b"00000000000000000000014\r\n" + BODY + b"\r\n" + END), 200),
        # hosts
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (GET.replace(b"host: x", b"host: x\r\nhost: x"), 400),
        (GET.replace(b"host: x", b"host: x/y"), 400),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (LAST_GET.replace(b"/healthz", b"http://elsewhere/healthz"), 200),
        (post(BODY, path=b"http://x/v1/sentiment"), 200),
        # methods, versions and other protocols
        (head(b"CONNECT x:443 HTTP/1.1"), 400),
        (head(b"BREW /healthz HTTP/1.1"), 400),
        (head(b"get /healthz HTTP/1.1"), 400),
        (b"GET /healthz\r\n\r\n", 505),
        (head(b"GET /healthz HTTP/2.0"), 505),
        (head(b"GET /healthz HTTP/9.9"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
        (head(b"GET /healthz HTTP/1.1", *H2C), 200),
        (post(BODY, *H2C), 400),
        # contents
        *((post(BODY, b"content-encoding: " + coding), 415) for coding in (b"gzip", b"deflate", b"br", b"zstd")),
        (post(BODY, b"content-encoding: identity, gzip"), 415),
    ],
)
def test_a_request_has_one_answer_or_none_that_is_certain(server: Server, sent: bytes, status: int) -> None:
    assert statuses(exchange(server, sent)) == [status]


def test_what_comes_behind_a_request_that_was_refused_is_not_heard(server: Server) -> None:
    upgrade = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: "
    stream = b"GET /v1/stream HTTP/1.1\r\n" + upgrade + b"AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    for refused in (b"GET /healthz HTTP/1.1\r\n\r\n", GET.replace(b"host: x", b"host: x y"), stream):
        assert statuses(exchange(server, refused + GET + post(BODY))) == [400]
        assert statuses(exchange(server, GET + refused + GET)) in ([200, 400], [])  # in one turn, all end


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/sentiment", b"[" * 100_000, 400, "malformed_json"),
        ("/v1/sentiment", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "malformed_json"),
        ("/v1/sentiment", b'{"inputs": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", 400, "malformed_json"),
        ("/v1/sentiment", b'{"inputs": [' + b"[" * 150 + b"]" * 150 + b"]}", 422, "invalid_request"),
        ("/v1/forecast", b'{"horizon": %b, "series": []}' % (b"9" * 100_000), 400, "malformed_json"),
        ("/v1/forecast", b'{"horizon": %b, "series": [{"values": [1]}]}' % (b"9" * 4300), 422, "horizon_too_long"),
        ("/v1/forecast", b'{"horizon": 1, "series": [{"values": [1, 2, 1e400]}]}', 422, "not_finite"),
        ("/v1/forecast", b'{"horizon": 1, "series": [{"values": [1, 2, %b]}]}' % (b"9" * 400), 422, "not_finite"),
        ("/v1/forecast", b'{"horizon": 1, "series": [{"values": [1, 2, -0.%b]}]}' % (b"9" * 10**6), 200, None),
        ("/v1/sentiment", rb'{"inputs": ["\ud800"]}', 400, "malformed_json"),
        ("/v1/sentiment", rb'{"inputs": ["good \udfff\ud800"]}', 400, "malformed_json"),
        ("/v1/sentiment", b'{"inputs": ["\xed\xa0\x80"]}', 400, "malformed_json"),
        ("/v1/sentiment", b'{"inputs": ["good\0film"]}', 400, "malformed_json"),
        ("/v1/sentiment", rb'{"inputs": ["good\u0000film"]}', 200, None),
        ("/v1/sentiment", rb'{"inputs": ["good"], "model": "\u0000"}', 404, "unknown_model"),
        ("/v1/sentiment", rb'{"inputs": [{"text": "good", "id": "\u0000"}]}', 200, None),
        ("/v2/models/sentiment/infer", b'{"inputs": ' + b"[" * 100_000, 400, None),
        ("/v2/models/sentiment/infer", b'{"id": %b, "inputs": []}' % (b"9" * 100_000), 400, None),
        ("/v2/models/sentiment/infer", rb'{"id": "\ud800", "inputs": []}', 400, None),
    ],
)
def test_json_that_is_meant_to_hurt_is_read_or_refused(
    server: Server, path: str, body: bytes, status: int, code: str | None
) -> None:
    answer = server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert code is None or answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "twice", "once"),
    [
        ("/v1/sentiment", '"inputs": [5], "inputs": ["good"]', '"inputs": ["good"]'),
        ("/v1/sentiment", '"inputs": ["good", 5], "inputs": 5', '"inputs": 5'),
        ("/v1/sentiment", '"inputs": [{"text": 5, "text": "good"}, 5]', '"inputs": [{"text": "good"}, 5]'),
        ("/v1/sentiment", '"model": "x", "inputs": ["a"], "model": "reader"', '"inputs": ["a"], "model": "reader"'),
        ("/v1/forecast", '"horizon": 1, "series": [], "horizon": 99', '"horizon": 99, "series": []'),
        ("/v1/step", '"items": [{"values": [1], "values": "x"}]', '"items": [{"values": "x"}]'),
        ("/v2/models/sentiment/infer", '"id": "a", "inputs": [], "id": 5', '"id": 5, "inputs": []'),
    ],
)
def test_of_a_member_that_stands_twice_the_last_counts(server: Server, path: str, twice: str, once: str) -> None:
    def ask(members: str) -> Any:
        headers = {"content-type": "application/json", "x-request-id": "twice"}
        answer = server.client.post(path, content=f"{{{members}}}", headers=headers)
        return answer.status_code, {**answer.json(), "timing_ms": None}

    assert ask(twice) == ask(once)


def test_so_it_does_in_the_frames_of_a_stream(server: Server) -> None:
    with Stream(server, first='{"model": "sentiment", "model": "stepper"}') as stream:
        assert stream.frame()["model"] == "stepper"
        stream.connection.send('{"inputs": "x", "inputs": [[1, 2]]}')
        assert stream.frame()["type"] == "step"


def test_requests_in_a_line_are_answered_in_their_order(server: Server) -> None:
    line = GET + post(BODY).replace(b"connection: close\r\n", b"") + GET.replace(b"/healthz", b"/nowhere") + LAST_GET
    assert statuses(exchange(server, line)) == [200, 200, 404, 200]
    assert statuses(exchange(server, GET * 5000 + LAST_GET)) == [200] * 5001


def test_a_body_is_asked_for_only_if_it_will_be_read(server: Server) -> None:
    expect = b"expect: 100-continue"
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(post(b"", expect, length=len(BODY)))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert statuses(connection.makefile("rb").read()) == [200]
    for refused, status in (
        (post(b"", expect, length=10**9), 413),
        (post(b"", expect, b"content-encoding: gzip", length=9), 415),
        (post(b"", expect, path=b"/nowhere", length=9), 404),
    ):
        with socket.create_connection(server.address, timeout=30) as connection:
            connection.sendall(refused)
            assert statuses(connection.recv(65_536)) == [status]


def test_a_million_chunks_of_one_byte_are_one_body(server: Server) -> None:
    body = json.dumps({"inputs": ["good"], "model": "sentiment"}).ljust(1_000_000).encode()
    answer = exchange(server, post_chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + END))
    assert statuses(answer) == [200]


@pytest.mark.parametrize(
    "flood",
    [
        chunk(BODY) + b"0\r\n" + b"a: b\r\n" * 2_000_000,
        chunk(BODY) + b"0\r\na: " + b"b" * 10_000_000,
        b"14;" + b"a" * 10_000_000,
        b"1;aaaaaaaaaaaaaaaaaaaaaaaa\r\n \r\n" * 500_000,
    ],
    ids=["trailers", "one trailer", "an extension", "extensions"],
)
def test_what_a_body_has_besides_its_bytes_is_bounded(server: Server, flood: bytes) -> None:
    process = psutil.Process(server.process.pid)
    before, start = process.memory_info().rss, server.mark()
    answer = exchange(server, post_chunks(flood))
    assert statuses(answer) in ([400], [])  # reset, with bytes of the flood on their way, the answer may be lost
    assert process.memory_info().rss < before + 2**25
    assert server.lines_since(start, until="65536 bytes more than its chunks need")


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (post_chunks(b"f" * 16 + b"\r\n"), b"x"),
        (post_chunks(chunk(BODY) + b"0\r\n"), b"a: b\r\n"),
        (post_chunks(b"1;"), b"a"),
        (head(LINE, TYPED, b"content-length: 1000"), b" "),
        (head(LINE, TYPED)[:-2], b"x"),
    ],
    ids=["a chunk", "trailers", "an extension", "a body", "a head"],
)
def test_what_comes_too_slowly_ends(impatient: Server, begun: bytes, rest: bytes) -> None:
    """A part comes again and again, each in good time, and the whole never."""
    assert statuses(drip(impatient, begun, rest)) == [408]
