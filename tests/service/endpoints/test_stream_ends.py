"""How streams end, what bounds them, and that no step is lost or taken twice on the way."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import Server, ServerFactory
from keyring import Keyring
from raw_streams import HANDSHAKE, RawStream, masked, read_frame
from streams import CLOSE, Floats, Stream, connect, eventually, random_rows, whole
from websockets.exceptions import InvalidStatus

from baton_client import ApiError, Client
from service.state.keys import KeyRing
from service.state.token import Sealer

ROWS = random_rows(21, 40)
KEYS = json.dumps([base64.urlsafe_b64encode(bytes(range(32))).decode()])
MIB = 2**20


def refused(server: Server, path: str = "/v1/stream", **options: str) -> tuple[int, dict, dict]:
    with pytest.raises(InvalidStatus) as refusal, connect(server, path, **options):
        pass
    response = refusal.value.response
    assert response.headers["content-type"] == "application/json"
    error = json.loads(response.body)["error"]
    assert error["request_id"] == response.headers["x-request-id"]
    return response.status_code, error, dict(response.headers)


def made_ahead(token: str, ahead_s: int) -> str:
    """Return the token as a replica whose clock is ahead would have made it."""
    sealer = Sealer(KeyRing(json.loads(KEYS)), ttl_s=3600, skew_s=0, clock=lambda: time.time() + ahead_s)
    raw = base64.urlsafe_b64decode(token)
    fingerprint = sealer.maker(raw, longest_payload_bytes=len(raw))
    session = sealer.open(raw, tenant="")
    resealed, _ = sealer.seal(
        session.payload, session_id=session.id, step=session.step, fingerprint=fingerprint, tenant=""
    )
    return base64.urlsafe_b64encode(resealed).decode()


def finish(server: Server, state: str, rows: Floats) -> Floats:
    with Stream(server, state=state, **{"return": "all"}) as stream:
        return stream.step(rows)


def test_a_websocket_elsewhere_is_refused_in_http(server: Server) -> None:
    status, error, _ = refused(server, "/v1/step")
    assert (status, error["code"]) == (404, "not_found")


def test_a_wrong_key_is_refused_before_the_stream_is_accepted_and_keys_tell_tenants_apart(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    keys = Keyring("a", "b")
    server = start_server(tiny_models, tmp_path, BATON_API_KEYS=keys.setting)
    status, error, headers = refused(server, api_key="wrong-key")
    assert (status, error["code"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    with Stream(server, api_key=keys["a"]) as stream:
        stream.step(ROWS)
        state = stream.ask(checkpoint=True)["state"]
    with Stream(server, api_key=keys["a"], state=state) as stream:
        assert stream.opened["step"] == 40
    with Stream(server, api_key=keys["b"], state=state) as stream:
        assert stream.opened["error"]["code"] == "state_invalid"


def test_streams_past_the_most_are_refused_until_one_closes(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_STREAMS="2")
    with Stream(server) as kept:
        with Stream(server):
            status, error, headers = refused(server)
            assert (status, error["code"], error["limit"], headers["retry-after"]) == (429, "overloaded", 2, "1")
        eventually(lambda: server.metric("baton_streams") == 1)
        with Stream(server) as stream:
            assert len(stream.step(ROWS)) == len(kept.step(ROWS)) == 1
    assert server.metric("baton_rejected_total", "cause", "overloaded") == 1


def test_an_opening_that_does_not_come_ends_the_stream(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_TIMEOUT_MS="100")
    connecting = connect(server)
    with connecting as connection:
        refusal = json.loads(connection.recv(timeout=30))
        assert (refusal["type"], refusal["error"]["code"]) == ("error", "body_timeout")


@pytest.mark.parametrize("at_once", [True, False])
def test_frames_that_come_before_the_handshake_is_answered_are_taken(server: Server, at_once: bool) -> None:
    """A client should wait for the answer; one that does not loses nothing."""
    frames = [b'{"model": "numbers"}', b'{"values": [1]}', b'{"values": [2]}']
    early = HANDSHAKE + masked(b"ping", kind=0x89) + b"".join(masked(frame, kind=0x81) for frame in frames)
    with socket.create_connection(server.address, timeout=30) as client:
        for part in [early] if at_once else [early[: len(HANDSHAKE)], early[len(HANDSHAKE) :]]:
            client.sendall(part)
        incoming = client.makefile("rb")
        assert incoming.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while incoming.readline() != b"\r\n":
            pass
        assert read_frame(incoming) == b"ping"
        opened, *steps = (json.loads(read_frame(incoming)) for _ in frames)
    assert opened["type"] == "open"
    assert [step["step"] for step in steps] == [1, 2]
    assert [step["outputs"]["total"] for step in steps] == [[1.0], [4.0]]


def test_a_handshake_that_is_refused_is_answered_whatever_comes_behind_it(server: Server) -> None:
    with socket.create_connection(server.address, timeout=30) as client:
        client.sendall(HANDSHAKE.replace(b"/v1/stream", b"/v1/nowhere") + masked(b"{}", kind=0x81))
        received = client.makefile("rb").read()
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"not_found"' in received
    assert server.client.get("/healthz").status_code == 200
    assert not [line for line in server.lines if "Traceback" in line]


def test_a_state_from_the_future_is_to_be_tried_again(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    """The session goes on later, or at another replica: so says the close code, and so understands the client."""
    server = start_server(tiny_models, tmp_path, BATON_TOKEN_KEYS=KEYS)
    item = {"inputs": ROWS[:1].tolist()}
    begun = server.post("/v1/step", {"model": "stepper", "items": [item]}).json()["results"][0]["state"]
    early = made_ahead(begun, ahead_s=3600)
    opening = json.dumps({"model": "stepper", "state": early})
    with Stream(server, first=opening) as stream:
        (refusal,), code = stream.end()
    assert (refusal["error"]["code"], code) == ("state_from_future", 1013)
    assert server.url is not None
    with Client(server.url, timeout=10) as client, pytest.raises(ApiError) as refused:
        client.step("stepper", ROWS[:1], state=early)
    assert (refused.value.code, refused.value.transient) == ("state_from_future", True)
    assert refused.value.retry_after is not None
    assert 0 < refused.value.retry_after <= 3540


def test_an_idle_stream_ends_with_a_last_token(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STREAM_IDLE_S="1")
    with Stream(server) as stream, Stream(server) as fresh, Stream(server) as saved:
        stream.step(ROWS[:10])
        saved.step(ROWS[:10])
        saved.ask(checkpoint=True)
        (last,), code = stream.end()
        assert (code, last["type"], last["step"]) == (1001, "checkpoint", 10)
        assert fresh.end() == saved.end() == ([], 1001)
    np.testing.assert_allclose(finish(server, last["state"], ROWS[10:]), whole(server, ROWS)[10:], atol=CLOSE)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\x82\xff" + struct.pack("!Q", 3 * MIB) + bytes(4 + 3 * MIB), 1009),
        (b"\x82\xff" + struct.pack("!Q", MIB + 1) + bytes(4 + MIB + 1), 1009),
        (b"\x82\x01a" + bytes(3 * MIB), 1002),
        (b"\x83\x80" + bytes(4), 1002),
        (b"\x81\x81" + bytes(4) + b"\xff", 1007),
    ],
    ids=["much too large", "too large", "unmasked", "of no known kind", "not UTF-8"],
)
def test_a_frame_that_breaks_the_protocol_ends_the_stream_with_a_last_token(
    server: Server, wrong: bytes, code: int
) -> None:
    with Stream(server) as stream:
        stream.step(ROWS[:10])
        stream.connection.socket.sendall(wrong)
        (last,), closed = stream.end()
    assert (closed, last["type"], last["step"]) == (code, "checkpoint", 10)
    np.testing.assert_allclose(finish(server, last["state"], ROWS[10:]), whole(server, ROWS)[10:], atol=CLOSE)
    eventually(lambda: server.metric("baton_streams") == 0)


def test_the_largest_frame_is_taken(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path, BATON_MAX_FRAME_BYTES="1024")
    with Stream(server) as stream:
        stream.step(random_rows(1, 128))
        stream.send_rows(random_rows(1, 129))
        (last,), code = stream.end()
    assert (code, last["step"]) == (1009, 128)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_at_sigterm_the_client_gets_a_token_that_goes_on_elsewhere_and_no_output_is_lost_or_doubled(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, workers: str
) -> None:
    server = start_server(tiny_models, tmp_path, BATON_TOKEN_KEYS=KEYS, BATON_WORKERS=workers)
    other = start_server(tiny_models, tmp_path, BATON_TOKEN_KEYS=KEYS)
    rows = random_rows(4, 3000)
    expected = whole(other, rows)
    with ExitStack() as kept:
        streams = [kept.enter_context(Stream(server)) for _ in range(6)]
        for stream in streams:
            for row in rows[:1500]:
                stream.send_rows(row)
        first = [stream.floats() for stream in streams]
        server.process.send_signal(signal.SIGTERM)
        for stream, answered in zip(streams, first, strict=True):
            received, code = stream.rest()
            assert code == 1012
            more = [np.frombuffer(frame, "<f4") for frame in received if isinstance(frame, bytes)]
            made = np.array([*answered, *more])
            last = json.loads(received[-1])
            assert (last["type"], last["step"]) == ("checkpoint", len(made))
            np.testing.assert_allclose(made, expected[: len(made)], atol=CLOSE)
            rest = finish(other, last["state"], rows[len(made) :])
            np.testing.assert_allclose(rest, expected[len(made) :], atol=CLOSE)
    server.stop()
    assert not [line for line in server.lines if "ERROR" in line or "Traceback" in line]


@pytest.mark.parametrize("how", ["closed", "reset", "said"])
def test_a_client_that_leaves_amid_its_frames_leaves_nothing_behind(server: Server, how: str) -> None:
    start = server.mark()
    with ExitStack() as kept:
        streams = [kept.enter_context(RawStream(server)) for _ in range(8)]
        assert server.metric("baton_streams") == 8
        for stream in streams:
            if how == "reset":
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.sendall(masked(ROWS.tobytes()) * 100)
            if how == "said":
                stream.socket.sendall(masked(struct.pack("!H", 1000), kind=0x88))
    eventually(lambda: server.metric("baton_streams") == 0)
    eventually(lambda: server.metric("baton_queue_rows", "model", "stepper") == 0)
    server.mark()
    assert not [line for line in server.lines[start:] if "ERROR" in line or "WARNING" in line]


def test_a_client_that_does_not_read_is_not_read_from_and_grows_nothing(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory
) -> None:
    server = start_server(tiny_models, tmp_path)
    chunk = random_rows(2, 200)
    with Stream(server, **{"return": "all"}) as other:
        other.step(ROWS[:10])
        before = resident_bytes(server.process.pid)
        with RawStream(server) as own:
            sent = own.fill(masked(chunk.tobytes()))
            assert resident_bytes(server.process.pid) - before < 16 * MIB
            np.testing.assert_allclose(other.step(ROWS[10:]), whole(server, ROWS)[10:], atol=CLOSE)
            answers = [np.frombuffer(own.read(), "<f4").reshape(-1, 3) for _ in range(sent)]
    expected = whole(server, np.concatenate([chunk] * 20))
    np.testing.assert_allclose(np.concatenate(answers[:20]), expected, atol=CLOSE)


def test_a_client_that_never_reads_is_cut_off(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path, BATON_STREAM_IDLE_S="1")
    with RawStream(server) as own:
        own.fill(masked(random_rows(2, 200).tobytes()))
        assert "cut off: the client does not read" in server.lines_since(0, until="cut off")[-1]
        assert server.metric("baton_streams") == 0


def test_a_flood_of_pings_grows_nothing(server: Server) -> None:
    with RawStream(server) as own:
        before = resident_bytes(server.process.pid)
        own.fill((b"\x89\xfd" + bytes(4 + 125)) * 100)
        assert resident_bytes(server.process.pid) - before < 16 * MIB


def test_fragments_take_no_more_memory_than_what_they_hold(server: Server) -> None:
    parts = (masked(b"", kind=0x00) + masked(bytes(1), kind=0x00)) * 1000
    with RawStream(server) as own:
        before = resident_bytes(server.process.pid)
        own.socket.sendall(masked(b"", kind=0x02))
        for _ in range(500):
            own.socket.sendall(parts)
        own.socket.sendall(masked(b"all read?", kind=0x89))
        assert own.read() == b"all read?"
        assert resident_bytes(server.process.pid) - before < 16 * MIB
        own.socket.sendall(masked(b"", kind=0x80))
        error = json.loads(own.read())["error"]
    assert error["message"].startswith(f"{500_000 // 8} steps")


def test_a_full_queue_is_waited_for_in_turn(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path, BATON_QUEUE_ROWS="1", BATON_MAX_ITEMS="1")
    sessions = [random_rows(seed, 30) for seed in range(8)]
    with ExitStack() as kept:
        streams = [kept.enter_context(Stream(server)) for _ in sessions]
        for rows in zip(*sessions, strict=True):
            for stream, row in zip(streams, rows, strict=True):
                stream.send_rows(row)
        made = [np.concatenate([stream.floats() for _ in range(30)]) for stream in streams]
    for rows, outputs in zip(sessions, made, strict=True):
        np.testing.assert_allclose(outputs, whole(server, rows), atol=CLOSE)


@pytest.mark.parametrize(("room", "code"), [("1", "overloaded"), ("8", "deadline")])
def test_a_stream_that_waits_too_long_ends_with_a_last_token(
    tiny_models: Path, tmp_path: Path, start_server: ServerFactory, room: str, code: str
) -> None:
    settings = {"BATON_QUEUE_ROWS": room, "BATON_MAX_ITEMS": "1", "BATON_RUN_THREADS": "1", "BATON_TIMEOUT_MS": "150"}
    long = {"BATON_MAX_STEPS": "2000000", "BATON_MAX_FRAME_BYTES": str(32 * MIB)}
    server = start_server(tiny_models, tmp_path, **settings, **long)
    with Stream(server) as busy, Stream(server) as waiting:
        waiting.step(ROWS[:10])
        busy.send_rows(random_rows(1, 1_500_000))
        eventually(lambda: server.metric("baton_queue_rows", "model", "stepper") == 1)
        waiting.send_rows(ROWS[10:])
        (last, error), closed = waiting.end()
        assert (closed, last["type"], last["step"]) == (1013, "checkpoint", 10)
        assert (error["type"], error["error"]["code"], error["step"]) == ("error", code, 10)
        assert error["error"]["retry_after_ms"] > 0
        assert len(busy.floats()) == 1
    np.testing.assert_allclose(finish(server, last["state"], ROWS[10:]), whole(server, ROWS)[10:], atol=CLOSE)


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
