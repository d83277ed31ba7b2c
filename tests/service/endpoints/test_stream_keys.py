"""Who may open a stream: a key in its head, among its subprotocols or in its first frame; origins; a tenant's share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, ServerFactory
from keyring import Keyring
from streams import Stream, connect, eventually
from websockets.exceptions import InvalidStatus

KEYS = Keyring("acme", "bolt", admin=True)
STREAMS, OF_A_TENANT, UNKNOWN = 24, 2, 3


@pytest.fixture(scope="module")
def keyed(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(
        tiny_models,
        tmp_path_factory.mktemp("keyed"),
        BATON_API_KEYS=KEYS.setting,
        BATON_MAX_STREAMS=str(STREAMS),
        BATON_TENANT_STREAMS=str(OF_A_TENANT),
        BATON_CORS_ORIGINS='["https://app.example.com"]',
    )
    yield running
    running.stop()


def refused(server: Server, **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal, connect(server, **options):
        pass
    response = refusal.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


def offering(*protocols: str) -> dict[str, Any]:
    return {"subprotocols": list(protocols)}


def test_a_key_may_stand_in_the_first_frame(keyed: Server) -> None:
    """And it tells whose the states are."""
    with Stream(keyed, key=KEYS["acme"]) as stream:
        assert stream.opened["type"] == "open"
        stream.ask(inputs=[[1, 2]])
        state = stream.ask(checkpoint=True)["state"]
    with Stream(keyed, api_key=KEYS["acme"], state=state) as stream:
        assert stream.opened["step"] == 1
    with Stream(keyed, key=KEYS["bolt"], state=state) as stream:
        assert stream.opened["error"]["code"] == "state_invalid"


@pytest.mark.parametrize("opening", [{}, {"key": ""}, {"key": "wrong"}, {"key": KEYS.admin}], ids=range(4))
def test_a_first_frame_without_a_tenant_s_key_ends_the_stream(keyed: Server, opening: dict[str, Any]) -> None:
    with Stream(keyed, **opening) as stream:
        assert stream.opened["error"]["code"] == "unauthorized"
        assert stream.end() == ([], 1008)


def test_a_key_is_given_once(keyed: Server) -> None:
    with Stream(keyed, api_key=KEYS["acme"], key=KEYS["acme"]) as stream:
        assert (stream.opened["error"]["code"], stream.opened["error"]["field"]) == ("invalid_request", "key")


def test_a_key_may_stand_among_the_subprotocols(keyed: Server) -> None:
    """As a browser has to give it, which closes the connection unless one of them is answered: that without a key."""
    with Stream(keyed, connecting=offering("baton", f"baton.key.{KEYS['acme']}")) as stream:
        assert stream.connection.subprotocol == "baton"
        assert stream.opened["type"] == "open"
    assert refused(keyed, **offering("baton", "baton.key.wrong")) == (401, "unauthorized")


def test_subprotocols_that_are_not_ours_are_none(server: Server) -> None:
    with Stream(server, connecting=offering("other")) as stream:
        assert (stream.connection.subprotocol, stream.opened["type"]) == (None, "open")


@pytest.mark.parametrize(
    ("origin", "fits"),
    [
        ("https://app.example.com", True),
        ("http://{host}", True),
        ("https://{host}", True),  # a proxy before the service has the certificate
        ("http://evil.example.com", False),
        ("https://app.example.com:444", False),
        ("https://app.example.com.evil.com", False),
        ("http://{host}.evil.com", False),
        ("null", False),
        ("http://[", False),
        ("file://", False),
    ],
)
def test_a_page_of_another_origin_opens_no_stream(keyed: Server, origin: str, fits: bool) -> None:
    """A browser would let it, and says of which origin it is."""
    origin = origin.format(host=keyed.url.removeprefix("http://"))
    if fits:
        with connect(keyed, api_key=KEYS["acme"], origin=origin) as connection:
            connection.send('{"model": "stepper"}')
            assert json.loads(connection.recv())["type"] == "open"
    else:
        assert refused(keyed, api_key=KEYS["acme"], origin=origin) == (403, "origin_refused")


def test_a_tenant_has_its_number_of_streams_and_leaves_the_others_theirs(keyed: Server) -> None:
    with ExitStack() as kept:
        for _ in range(OF_A_TENANT):
            kept.enter_context(Stream(keyed, api_key=KEYS["acme"]))
        assert refused(keyed, api_key=KEYS["acme"]) == (429, "quota_exceeded")
        with Stream(keyed, key=KEYS["acme"]) as late:
            assert late.opened["error"]["code"] == "quota_exceeded"
            assert late.end() == ([], 1013)
        with Stream(keyed, api_key=KEYS["bolt"]) as other:
            assert other.opened["type"] == "open"
    eventually(lambda: keyed.metric("baton_streams") == 0)
    with Stream(keyed, key=KEYS["acme"]) as stream:
        assert stream.opened["type"] == "open"


def test_connections_without_a_key_take_a_part_of_the_room_alone(keyed: Server) -> None:
    with ExitStack() as kept:
        for _ in range(UNKNOWN):
            kept.enter_context(connect(keyed))
        assert refused(keyed) == (429, "overloaded")
        with Stream(keyed, api_key=KEYS["acme"]) as stream:
            assert stream.opened["type"] == "open"
    eventually(lambda: keyed.metric("baton_streams") == 0)
    with Stream(keyed, key=KEYS["acme"]) as stream:
        assert stream.opened["type"] == "open"


def test_without_keys_a_key_is_no_matter(tiny_models: Path, tmp_path: Path, start_server: ServerFactory) -> None:
    server = start_server(tiny_models, tmp_path)
    with Stream(server, api_key="any", key="any") as stream:
        assert stream.opened["type"] == "open"
